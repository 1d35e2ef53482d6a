"""CMT against the authors' code, recorded.

It takes one size of image, so for each the reference is built with that size's tables; and it is shown the zeros that
ours adds where a map cannot be cut into whole patches.
"""
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tests.parity.case import Recorded
from tests.parity.pvt import grids, old_timm, padded

SHORT: Mapping[str, Any] = {"depths": (1, 1, 1, 1)}


def _case(name: str, own: int, *sizes: tuple[int, int], changes: Mapping[str, Any] = {}) -> Recorded:
    def official(code: Path, height: int, width: int) -> nn.Module:
        old_timm()
        sys.path.insert(0, str(code / "cmt_pytorch"))
        from cmt import CMT  # type: ignore[import-not-found]
        arguments: dict[str, Any] = dict(
            cmt_ti={}, cmt_xs=dict(embed_dims=[52, 104, 208, 416], depths=[3, 3, 12, 3], mlp_ratios=[3.77] * 4),
            cmt_s=dict(embed_dims=[64, 128, 256, 512], stem_channel=32, depths=[3, 3, 16, 3], mlp_ratios=[4] * 4),
            cmt_b=dict(embed_dims=[76, 152, 304, 608], stem_channel=38, depths=[4, 4, 20, 4], mlp_ratios=[4] * 4))[name]
        model = CMT(img_size=own, **{**arguments, **changes})
        assert isinstance(model, nn.Module)
        for letter, (h, w), r in zip("abcd", grids(height, width), (8, 4, 2, 1), strict=True):
            patches: Any = getattr(model, f"patch_embed_{letter}")
            patches.img_size = (2 * h, 2 * w)
            padded(patches, 2)
            heads = getattr(model, f"relative_pos_{letter}").shape[0]
            cells = max(1, h // r) * max(1, w // r)
            setattr(model, f"relative_pos_{letter}", nn.Parameter(torch.zeros(heads, h * w, cells)))
        return model

    def at(height: int, width: int) -> dict[str, Any]:
        return {} if (height, width) == (own, own) else {"image": (height, width)}
    return Recorded(name=name, official=official, sizes=sizes, changes=changes, at=at,
                    source="huawei-noah/Efficient-AI-Backbones@f90e129b645c3b1684fe07cd361cd557d0ad71f7: "
                           "cmt_pytorch/cmt.py")


CASES = [
    _case("cmt_ti", 160, (160, 160), (224, 224), (96, 224), (130, 97)),         # training, square, wide, odd
    _case("cmt_xs", 192, (192, 192)),
    _case("cmt_s", 224, (224, 224), changes=SHORT),
    _case("cmt_b", 256, (256, 256), changes=SHORT),
]
