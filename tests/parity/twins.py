"""Twins against timm, and against the authors' code, recorded.

Both leave out what no whole patch covers; here they are shown the zeros that ours adds there. The authors' windows must
divide their maps; timm fills them up, as ours.
"""
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

from torch import nn

from tests.parity.case import Case, Recorded, timm_model
from tests.parity.pvt import old_timm, padded

SIZES = ((224, 224), (160, 160), (96, 200), (130, 97))          # training, square, wide, odd
SHORT: Mapping[str, Any] = {"depths": (1, 2, 1, 2)}
FULL = {"s": "small", "b": "base", "l": "large"}


def _timm(name: str, *sizes: tuple[int, int], changes: Mapping[str, Any] = {}) -> Case:
    stem, _, size = name.rpartition("_")

    def build(height: int, width: int) -> nn.Module:
        model: Any = timm_model(f"{stem}_{FULL[size]}", **changes)
        for i, patches in enumerate(model.patch_embeds):
            padded(patches, 2 if i else 4)
        assert isinstance(model, nn.Module)
        return model
    return Case(name=name, reference=build, sizes=sizes, changes=changes)


def _official(name: str) -> Any:
    def build(code: Path, height: int, width: int) -> nn.Module:
        old_timm()
        import timm.models.vision_transformer as module
        modern = module.Block

        class Block(nn.Module):
            """Takes its arguments in the order of timm 0.3.2, and has one drop path, which rests in evaluation."""

            def __init__(self, dim: int, heads: int, mlp_ratio: float, qkv_bias: bool, scale: None, drop: float,
                         attn_drop: float, drop_path: float, act: Any, norm: Any):
                super().__init__()
                made = modern(dim, heads, mlp_ratio, qkv_bias=qkv_bias, act_layer=act, norm_layer=norm)
                self.norm1, self.attn, self.norm2, self.mlp = made.norm1, made.attn, made.norm2, made.mlp
                self.drop_path = nn.Identity()
        sys.path.insert(0, str(code))
        with patch.object(module, "Block", Block):
            import gvt  # type: ignore[import-not-found]
        model = getattr(gvt, name)()
        assert isinstance(model, nn.Module)
        return model
    return build


CASES = [
    *(_timm(f"twins_{form}_s", *SIZES, changes=SHORT) for form in ("pcpvt", "svt")),
    *(_timm(f"twins_{form}_{size}", (130, 97), changes=SHORT) for form in ("pcpvt", "svt") for size in "bl"),
    *(Recorded(name=name, official=_official(theirs), sizes=sizes,
               source="Meituan-AutoML/Twins@c1ff6714969ad8ef330e75cf97bd310f7488f529: gvt.py")
      for name, theirs, sizes in (("twins_pcpvt_s", "pcpvt_small_v0", ((224, 224), (160, 96))),
                                  ("twins_svt_s", "alt_gvt_small", ((224, 224), (448, 224))))),
]
