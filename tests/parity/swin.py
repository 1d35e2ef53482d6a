"""Swin against timm and torchvision.

timm rolls a map before it pads it and masks it as if it had padded first, so that at sizes which need both the
opposite edges of its maps talk; there torchvision, which pads first like the authors' detection code, is the
reference. Where nothing is shifted (one block a stage) or nothing is padded, timm is.
"""
from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from tests.parity.case import Case, timm_model
from vitrail.core.torchvision_guard import import_torchvision

OFF = ((224, 224), (160, 160), (96, 200), (250, 131))           # training, square, wide, odd; maps down to 3 x 7
SHORT: Mapping[str, Any] = {"depths": (2, 2, 2, 2)}
FLAT: Mapping[str, Any] = {"depths": (1, 1, 1, 1)}              # no shifts


def _timm(name: str, reference: str, *sizes: tuple[int, int], window: int = 0, changes: Mapping[str, Any] = {}) -> Case:
    """Maps that the window divides, or that one window covers."""
    theirs = {"window_size": window} if window else {}

    def build(height: int, width: int) -> nn.Module:
        return timm_model(reference, img_size=(height, width), **changes, **theirs)
    return Case(name=name, reference=build, sizes=sizes, changes={**changes, **({"window": window} if window else {})})


def _timm_padded(height: int, width: int) -> nn.Module:
    model = timm_model("swin_tiny_patch4_window7_224", dynamic_img_size=True, **FLAT)
    setattr(model.patch_embed, "dynamic_img_pad", True)         # noqa: B010   (else it refuses such sizes)
    return model


def _padded(model: nn.Module, image: Tensor) -> Tensor:
    """The reference cuts what no whole patch covers; ours pads, as the authors' detection code does."""
    out = model(F.pad(image, (0, -image.shape[3] % 4, 0, -image.shape[2] % 4)))
    assert isinstance(out, Tensor)
    return out


def _torchvision(name: str, *sizes: tuple[int, int], dim: int, heads: list[int], depths: tuple[int, ...]) -> Case:
    def build(height: int, width: int) -> nn.Module:
        import_torchvision()
        from torchvision.models.swin_transformer import SwinTransformer
        return SwinTransformer([4, 4], dim, list(depths), heads, [7, 7])
    return Case(name=name, reference=build, sizes=sizes, keys="torchvision", changes={"depths": depths}, output=_padded,
                drop=("relative_position_index",))


CASES = [
    _timm("swin_t", "swin_tiny_patch4_window7_224", (224, 224), (224, 448)),
    _timm("swin_t", "swin_tiny_patch4_window7_224", (128, 128), (256, 128), (128, 256), window=4),
    Case(name="swin_t", reference=_timm_padded, sizes=OFF, changes=FLAT),
    _timm("swin_s", "swin_small_patch4_window7_224", (224, 224)),
    _timm("swin_b", "swin_base_patch4_window7_224", (224, 224), changes=SHORT),
    _timm("swin_b_384", "swin_base_patch4_window12_384", (384, 384), changes=SHORT),
    _timm("swin_l", "swin_large_patch4_window7_224", (224, 224), changes=SHORT),
    _timm("swin_l_384", "swin_large_patch4_window12_384", (384, 384), changes={"depths": (2, 2, 2, 1)}),
    _torchvision("swin_t", *OFF, dim=96, heads=[3, 6, 12, 24], depths=(2, 2, 6, 2)),
    _torchvision("swin_b", (130, 97), dim=128, heads=[4, 8, 16, 32], depths=(2, 2, 2, 2)),
]
