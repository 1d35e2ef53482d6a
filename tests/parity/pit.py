"""PiT against timm, whose tables are made for one size; the authors' own names against answers of their code."""
import importlib
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from tests.parity.case import Case, Recorded, stand_in, timm_model
from vitrail.core.torchvision_guard import import_torchvision

SHORT: Mapping[str, Any] = {"depths": (1, 1, 1)}
SIZES = ((224, 224), (160, 160), (96, 200), (131, 75))          # training, square, wide, odd


def _padded(model: nn.Module, image: Tensor, *, step: int) -> Tensor:
    """The reference cuts what no whole step covers; ours pads."""
    out = model(F.pad(image, (0, -image.shape[3] % step, 0, -image.shape[2] % step)))
    assert isinstance(out, Tensor)
    return out


def _case(name: str, *sizes: tuple[int, int], step: int = 8, changes: Mapping[str, Any] = {}) -> Case:
    theirs = {"depth": changes["depths"]} if changes else {}

    def build(height: int, width: int) -> nn.Module:
        return timm_model(f"{name}_224", img_size=(height + -height % step, width + -width % step), **theirs)
    return Case(name=name, reference=build, sizes=sizes, changes=changes, output=partial(_padded, step=step),
                at=lambda height, width: {"image": (height, width)})


def _rearrange(x: Tensor, how: str, **sides: int) -> Tensor:
    """The two patterns that the code asks of einops."""
    if how == "b c h w -> b (h w) c":
        return x.flatten(2).mT
    assert how == "b (h w) c -> b c h w"
    return x.mT.unflatten(2, (sides["h"], sides["w"]))


def _official(name: str) -> Recorded:
    def official(code: Path, height: int, width: int) -> nn.Module:
        import_torchvision()
        from timm.layers import trunc_normal_
        from timm.models.vision_transformer import Block
        stand_in("einops", rearrange=_rearrange)
        stand_in("timm.models.layers", trunc_normal_=trunc_normal_)
        stand_in("timm.models.registry", register_model=lambda build: build)
        sys.path.insert(0, str(code))
        pit = importlib.import_module("pit")
        # written for a timm whose blocks called the dropout of their projections `drop`
        vars(pit)["transformer_block"] = lambda drop, **rest: Block(proj_drop=drop, **rest)
        model = getattr(pit, name)(False)
        assert isinstance(model, nn.Module)
        return model
    return Recorded(name=name, source="naver-ai/pit@9d97a62e6a2a72a86685003998fcae700f952e18: pit.py",
                    official=official, sizes=((224, 224),))


CASES = [
    _case("pit_ti", *SIZES),
    _case("pit_ti_distilled", *SIZES),
    _case("pit_xs", (224, 224), (131, 75), changes=SHORT),
    _case("pit_xs_distilled", (131, 75), changes=SHORT),
    _case("pit_s", (224, 224), (131, 75), changes=SHORT),
    _case("pit_s_distilled", (131, 75), changes=SHORT),
    _case("pit_b", (224, 224), (131, 75), step=7, changes=SHORT),
    _case("pit_b_distilled", (131, 75), step=7, changes=SHORT),
    _official("pit_ti"),
    _official("pit_ti_distilled"),
]
