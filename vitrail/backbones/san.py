"""SAN: vector attention alone makes the network; nothing else looks beyond a place but a maximum over four of them.

Zhao et al., CVPR 2020, arXiv:2004.13621.
"""
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from vitrail.attention.vector import VectorPairwise, VectorPatchwise
from vitrail.core.card import Figures, Idea, Paper, Variant, variant
from vitrail.core.errors import ModelError
from vitrail.core.keys import AS_CONV, Keys, Row
from vitrail.nn import (BatchNorm, Chain, Conv, DropPath, Features, MaxPool, Head, Residual, Stack, conv_norm,
                        mean_map, pyramid, drop_path_rates)

PAPER = Paper(title="Exploring Self-attention for Image Recognition", arxiv="2004.13621", authors="Zhao et al.",
              year=2020, venue="CVPR", code="hszhao/SAN", license="MIT", builds_on=("attention.vector",),
              ideas=(Idea("attention.vector", "section 3", "the layer"),
                     Idea("backbones.resnet", "section 3.4", "residual bottlenecks in stages")))


class SAN(nn.Module):
    """A stage (table 1) halves the map by maxima, widens it place by place, and lets its blocks, born as plain as torch
    makes them, attend: norm, ReLU, vector attention (figure 2), added to the input.

    The published code drops the last row of an odd map; here it stands alone, so that no place is lost.
    image (B, 3, H, W) -> a map (B, ⌈H/s⌉, ⌈W/s⌉, C) a stage, s = 2, 4, 8, 16, 32, C = dim · (1, 4, 8, 16, 32).
    pairwise: weights from pairs of places, or from whole patches. window: a stage's footprint. share: how many
    channels of a quarter of a stage's width share one weight.
    Raises ModelError where the settings do not fit together.
    """

    stem_weights = ("patch_embed.conv.weight",)

    def __init__(self, *, dim: int = 64, depths: tuple[int, ...] = (2, 1, 2, 4, 1),
                 window: tuple[int, ...] = (3, 7, 7, 7, 7), pairwise: bool = True, share: int = 8, in_chans: int = 3,
                 drop_path: float = 0.0):
        super().__init__()
        if len(depths) != len(window):
            raise ModelError(f"{len(depths)} depths and {len(window)} windows: each stage needs one of both")
        if dim % 16 or share < 1 or dim // 4 % share:
            raise ModelError(f"dim={dim} and share={share} do not go together: 16 must divide dim, and share a quarter "
                             f"of it")
        self.channels = tuple(dim << i + 1 if i else dim for i in range(len(depths)))
        self.strides = tuple(2 << i for i in range(len(depths)))
        mixer = VectorPairwise if pairwise else VectorPatchwise
        drops = iter(drop_path_rates(drop_path, sum(depths)))

        def stage(i: int, before: int, width: int) -> Chain:
            return Chain(down=MaxPool(2, 2), conv=Conv(before, width, 1, bias=False), blocks=Stack(
                Residual(mixer(width, width // 4 // share, window=window[i]),
                         Chain(norm=BatchNorm(width), act=nn.ReLU()), drop=DropPath(next(drops)))
                for _ in range(depths[i])), norm=BatchNorm(width), act=nn.ReLU())

        self.patch_embed = conv_norm(in_chans, dim, act=nn.ReLU())
        self.stages = nn.ModuleList(stage(i, *pair) for i, pair in enumerate(
            zip((dim, *self.channels), self.channels, strict=False)))

    def forward(self, image: Tensor) -> Features:
        x = self.patch_embed(image.permute(0, 2, 3, 1))                    # (B, H, W, C)
        return Features(maps=pyramid(x, self.stages))

    def make_head(self, classes: int) -> nn.Module:
        """A linear layer on the mean of the last map."""
        return Head(self.channels[-1], classes, mean_map)


def _size(params: int, gflops: float, reported: tuple[float, float, float], **args: Any) -> Variant[SAN]:
    """The authors' tensors lie in a folder of Google Drive (link in their README), which no address names file by
    file: `load_weights(model, file, keys="official", inside="state_dict")` reads one."""
    said = dict(zip(("params_m", "gflops", "top1"), reported, strict=True))
    return variant(SAN, Figures(params=params, gflops=gflops, reported=said, where="README of hszhao/SAN"), **args)


_10: dict[str, Any] = dict(depths=(2, 1, 2, 4, 1))
_15: dict[str, Any] = dict(depths=(3, 2, 3, 5, 2))
_19: dict[str, Any] = dict(depths=(3, 3, 4, 6, 3))

san10_pairwise = _size(10_531_828, 2.009, (10.5, 2.2, 74.9), **_10)
san10_patchwise = _size(11_841_124, 1.757, (11.8, 1.9, 77.1), pairwise=False, **_10)
san15_pairwise = _size(14_065_406, 2.804, (14.1, 3.0, 76.6), **_15)
san15_patchwise = _size(16_181_310, 2.424, (16.2, 2.6, 78.0), pairwise=False, **_15)
san19_pairwise = _size(17_596_118, 3.563, (17.6, 3.8, 76.9), **_19)
san19_patchwise = _size(20_518_470, 3.057, (20.5, 3.3, 78.2), pairwise=False, **_19)

_THERE, _HERE = "module.layer{}.{}.", "backbone.stages.{}.blocks.{}."
_TABLE = {
    "module.conv_in.*":             "backbone.patch_embed.conv.*",
    "module.bn_in.*":               "backbone.patch_embed.norm.*",
    "module.conv{}.*":              "backbone.stages.{}.conv.*",
    _THERE + "bn1.*":              _HERE + "norm.norm.*",
    _THERE + "sam.conv1.*":        _HERE + "fn.phi.*",
    _THERE + "sam.conv2.*":        _HERE + "fn.psi.*",
    _THERE + "sam.conv3.*":        _HERE + "fn.beta.*",
    _THERE + "sam.conv_w.0.*":     _HERE + "fn.gamma.norm1.*",
    _THERE + "sam.conv_w.2.*":     _HERE + "fn.gamma.fc1.*",
    _THERE + "sam.conv_w.3.*":     _HERE + "fn.gamma.norm2.*",
    _THERE + "sam.conv_w.5.*":     _HERE + "fn.gamma.fc2.*",
    _THERE + "bn2.*":              _HERE + "fn.out.norm.*",
    _THERE + "conv.*":             _HERE + "fn.out.expand.*",
    "module.bn{}.*":                "backbone.stages.{}.norm.*",
    "module.fc.*":                  "head.linear.*",
}
# trained from within a wrapper; the bias of the places cancels in their differences
PAIRWISE = Keys(_TABLE, drop=(_THERE + "sam.conv_p.bias",), rows=[
    Row((_THERE + "sam.conv_p.weight",), _HERE + "fn.place.weight",
        AS_CONV)])
PATCHWISE = Keys(_TABLE)


def official(settings: Mapping[str, Any]) -> Keys:
    return PAIRWISE if settings["pairwise"] else PATCHWISE


KEYS = {"official": official}
