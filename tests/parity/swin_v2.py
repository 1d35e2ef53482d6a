"""Swin V2 against timm.

timm rolls a map before it pads it and masks it as if it had padded first, and takes a window no larger than the image
it was built for; so it is a reference where nothing is padded, or nothing is shifted (one block a stage). That windows
which are shifted and padded are right follows from Swin's cases and from tests/backbones/test_swin_v2.py.
"""
from collections.abc import Mapping
from typing import Any

from torch import nn

from tests.parity.case import Case, timm_model

SHORT: Mapping[str, Any] = {"depths": (2, 2, 2, 2)}
FLAT: Mapping[str, Any] = {"depths": (1, 1, 1, 1)}              # no shifts
SHAPES = ((128, 128), (96, 200), (250, 131))                    # square, wide, odd; maps smaller than a window


def _timm(name: str, reference: str, *sizes: tuple[int, int], changes: Mapping[str, Any] = {}) -> Case:
    """Maps that the windows divide."""
    def build(height: int, width: int) -> nn.Module:
        return timm_model(reference, img_size=(height, width), num_classes=1000, **changes)
    return Case(name=name, reference=build, sizes=sizes, changes=changes)


def _padded(name: str, reference: str, *sizes: tuple[int, int]) -> Case:
    def build(height: int, width: int) -> nn.Module:
        model = timm_model(reference, dynamic_img_size=True, num_classes=1000, **FLAT)
        setattr(model.patch_embed, "dynamic_img_pad", True)     # noqa: B010   (else it refuses such sizes)
        return model
    return Case(name=name, reference=build, sizes=sizes, changes=FLAT)


CASES = [
    _timm("swin_v2_t", "swinv2_tiny_window8_256", (256, 256), (256, 512)),
    _padded("swin_v2_t", "swinv2_tiny_window8_256", (256, 256), *SHAPES),
    _timm("swin_v2_t_w16", "swinv2_tiny_window16_256", (256, 256), changes=SHORT),
    _padded("swin_v2_t_w16", "swinv2_tiny_window16_256", (250, 131)),
    _timm("swin_v2_s", "swinv2_small_window8_256", (256, 256), changes=SHORT),
    _timm("swin_v2_s_w16", "swinv2_small_window16_256", (256, 256), changes=SHORT),
    _timm("swin_v2_b", "swinv2_base_window8_256", (256, 256), changes=SHORT),
    _timm("swin_v2_b_w16", "swinv2_base_window16_256", (256, 256), changes=FLAT),
    _timm("swin_v2_b_192", "swinv2_base_window12_192", (192, 192), changes=SHORT),
    _timm("swin_v2_b_w12to16", "swinv2_base_window12to16_192to256", (256, 256), changes=SHORT),
    _timm("swin_v2_b_w12to24", "swinv2_base_window12to24_192to384", (384, 384), changes=FLAT),
    _timm("swin_v2_l_192", "swinv2_large_window12_192", (192, 192), changes=FLAT),
    _timm("swin_v2_l_w12to16", "swinv2_large_window12to16_192to256", (256, 256), changes=FLAT),
    _timm("swin_v2_l_w12to24", "swinv2_large_window12to24_192to384", (384, 384), changes=FLAT),
]
