"""GhostNet: half of a layer's channels are cheap copies of the other half, each filtered by itself.

Han et al., CVPR 2020, arXiv:1911.11907. A convolutional net of the smallest budgets, to compare transformers with.
"""
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.core.card import Figures, Idea, Paper, Variant, Weights, variant
from vitrail.core.keys import Keys
from vitrail.nn import (Chain, Conv, DropPath, Features, SqueezeExcite, Stack, conv_norm, drop_path_rates, mean_map,
                        pyramid, round_width)
from vitrail.nn.names import conv_norm_names

PAPER = Paper(title="GhostNet: More Features from Cheap Operations", arxiv="1911.11907", authors="Han et al.",
              year=2020, venue="CVPR", code="huawei-noah/Efficient-AI-Backbones", license="Apache-2.0",
              ideas=(Idea("backbones.resnet", "section 3.2", "the residual block"),
                     Idea("backbones.mobilenet_v2", "section 3.2", "no activation after the narrowing"),
                     Idea("mobilenet_v3", "section 3.2", "the layout of the network"),
                     Idea("squeeze_excite", "section 3.2", "gates on the channels")))


class Ghost(nn.Module):
    """[p, depthwise 3 x 3 of p], p a 1 x 1 convolution to half of the channels (section 3.1): (B, H, W, C) -> `out`.

    The ratio s is 2, the size d of the cheap filters 3, as in all published sizes (section 4.1).
    """

    def __init__(self, dim: int, out: int, act: nn.Module):
        super().__init__()
        half = out // 2
        self.primary = conv_norm(dim, half, act=act)
        self.cheap = conv_norm(half, half, 3, groups=half, act=act)

    def forward(self, x: Tensor) -> Tensor:
        primary = self.primary(x)                                                       # (B, H, W, P)
        return torch.cat([primary, self.cheap(primary)], -1)


def squeeze_excite(dim: int) -> SqueezeExcite:
    """A quarter of the channels between, and a hard sigmoid, relu6(x + 3) / 6, for a gate."""
    return SqueezeExcite(dim, round_width(dim / 4, 4), act=nn.ReLU(), gate=nn.Hardsigmoid())


def shortcut(dim: int, out: int, window: int, stride: int) -> nn.Module:
    """The way past a bottleneck: the identity, or where the shape changes a depthwise and a 1 x 1 convolution."""
    if stride == 1 and dim == out:
        return nn.Identity()
    return Chain(depthwise=conv_norm(dim, dim, window, stride, groups=dim), pointwise=conv_norm(dim, out))


class GhostBottleneck(nn.Module):
    """A Ghost that widens, one without activation that narrows, and between them what strides (figure 3).

    `window` is the size of the depthwise convolutions, of the shortcut too where the shape changes. No activation
    follows the sum.
    """

    def __init__(self, dim: int, hidden: int, out: int, *, window: int, stride: int, squeeze: bool,
                 drop: float):
        super().__init__()
        self.widen, self.narrow = Ghost(dim, hidden, nn.ReLU()), Ghost(hidden, out, nn.Identity())
        self.down = conv_norm(hidden, hidden, window, stride, groups=hidden) if stride > 1 else nn.Identity()
        self.squeeze = squeeze_excite(hidden) if squeeze else nn.Identity()
        self.drop, self.shortcut = DropPath(drop), shortcut(dim, out, window, stride)

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.drop(self.narrow(self.squeeze(self.down(self.widen(x)))))


# table 1: a stage's blocks, as (window, hidden, out, squeeze); the first one strides, in every stage but the first
STAGES: tuple[tuple[tuple[int, int, int, bool], ...], ...] = (
    ((3, 16, 16, False),),
    ((3, 48, 24, False), (3, 72, 24, False)),
    ((5, 72, 40, True), (5, 120, 40, True)),
    ((3, 240, 80, False), (3, 200, 80, False), (3, 184, 80, False), (3, 184, 80, False), (3, 480, 112, True),
     (3, 672, 112, True)),
    ((5, 672, 160, True), (5, 960, 160, False), (5, 960, 160, True), (5, 960, 160, False), (5, 960, 160, True)),
)


class GhostNet(nn.Module):
    """A stem of stride 2, five stages of Ghost bottlenecks, and a 1 x 1 convolution (table 1).

    image (B, 3, H, W) -> a map (B, ⌈H/s⌉, ⌈W/s⌉, C) a stage, s = 2, 4, 8, 16, 32, the last one behind the convolution.
    `width` multiplies all widths, which are rounded to multiples of four. Born as torch's layers are: the authors'
    code has no other initialisation. `dropout` is the head's; stochastic depth, `drop_path`, is this library's.
    """

    stem_weights = ("patch_embed.conv.weight",)

    def __init__(self, *, width: float = 1.0, dropout: float = 0.2, in_chans: int = 3, drop_path: float = 0.0):
        super().__init__()
        self.dropout = dropout
        before = round_width(16 * width, 4)
        self.patch_embed = conv_norm(in_chans, before, 3, 2, act=nn.ReLU())
        self.stages, drops = nn.ModuleList(), iter(drop_path_rates(drop_path, sum(len(stage) for stage in STAGES)))
        ends = []
        for i, stage in enumerate(STAGES):
            blocks = []
            for j, (window, hidden, out, squeeze) in enumerate(stage):
                blocks.append(GhostBottleneck(before, round_width(hidden * width, 4), round_width(out * width, 4),
                                              window=window, stride=2 if i and not j else 1, squeeze=squeeze,
                                              drop=next(drops)))
                before = round_width(out * width, 4)
            self.stages.append(Stack(blocks))
            ends.append(before)
        last = round_width(STAGES[-1][-1][1] * width, 4)
        self.last = conv_norm(before, last, act=nn.ReLU())
        self.channels, self.strides = (*ends[:-1], last), (2, 4, 8, 16, 32)

    def forward(self, image: Tensor) -> Features:
        x = self.patch_embed(image.permute(0, 2, 3, 1))                                    # (B, h, w, D)
        *finer, x = pyramid(x, self.stages)                                             # (B, H, W, C)
        return Features(maps=(*finer, self.last(x)))

    def make_head(self, classes: int) -> nn.Module:
        """1,280 channels of the mean of the last map, dropped out, and a linear layer."""
        return GhostHead(self.channels[-1], classes, dropout=self.dropout)


class GhostHead(nn.Module):
    """Features -> (B, classes): the mean of the last map, widened behind the pooling, where it costs one place."""

    def __init__(self, dim: int, classes: int, *, dropout: float):
        super().__init__()
        self.widen, self.dropout = Conv(dim, 1280, 1), nn.Dropout(dropout)
        self.linear = nn.Linear(1280, classes)

    def forward(self, features: Features) -> Tensor:
        x = F.relu(self.widen(mean_map(features)[:, None, None]))                       # (B, 1, 1, D)
        return self.linear(self.dropout(x[:, 0, 0]))


def _size(width: float, params: int, gflops: float, reported: Mapping[str, float],
          *weights: Weights) -> Variant[GhostNet]:
    return variant(GhostNet, Figures(params=params, gflops=gflops, reported=reported, where="table 7"), *weights,
                   width=width)


ghostnet_050 = _size(0.5, 2_587_292, 0.042, {"params_m": 2.6, "gflops": 0.042})
ghostnet_100 = _size(1.0, 5_182_508, 0.141, {"params_m": 5.2, "gflops": 0.141},
                     Weights(name="in1k", source="hf://timm/ghostnet_100.in1k/model.safetensors", keys="timm",
                             license="Apache-2.0", reported={"top1": 73.98}, where="README of the authors' code"),
                     Weights(name="official_in1k", keys="official", license="Apache-2.0", interpolation="bilinear",
                             source="https://github.com/huawei-noah/Efficient-AI-Backbones/raw/"
                                    "f90e129b645c3b1684fe07cd361cd557d0ad71f7/ghostnet_pytorch/models/state_dict_73.98.pth",
                             reported={"top1": 73.98}, where="README of the authors' code"))
ghostnet_130 = _size(1.3, 7_358_820, 0.227, {"params_m": 7.3, "gflops": 0.226})


def _layouts() -> dict[str, str]:
    """Where each tensor stands: the published code counts ten groups of blocks, this file five stages."""
    table = {"conv_stem.*": "backbone.patch_embed.conv.*", "bn1.*": "backbone.patch_embed.norm.*",
             "conv_head.*": "head.widen.*", "classifier.*": "head.linear.*"}
    group = 0
    for i, stage in enumerate(STAGES):
        first = 1 if i else 0                       # a stage's first block, which strides, is a group of its own
        for j in range(len(stage)):
            there, here = f"blocks.{group + (j >= first > 0)}.{j - first if j else 0}.", f"backbone.stages.{i}.{j}."
            for theirs, ours in (("ghost1", "widen"), ("ghost2", "narrow")):
                table |= conv_norm_names(f"{there}{theirs}.", f"{here}{ours}.",
                                         ("primary_conv.0", "primary_conv.1", "primary"),
                                         ("cheap_operation.0", "cheap_operation.1", "cheap"))
            table |= conv_norm_names(there, here, ("conv_dw", "bn_dw", "down"),
                                     ("shortcut.0", "shortcut.1", "shortcut.depthwise"),
                                     ("shortcut.2", "shortcut.3", "shortcut.pointwise"))
            table |= {there + "se.conv_reduce.*": here + "squeeze.reduce.*",
                      there + "se.conv_expand.*": here + "squeeze.expand.*"}
        group += 1 + first
    return table | {f"blocks.{group}.0.conv.*": "backbone.last.conv.*",
                    f"blocks.{group}.0.bn1.*": "backbone.last.norm.*"}


LAYOUT = Keys(_layouts())           # timm keeps the authors' names

KEYS: dict[str, Any] = {"timm": lambda settings: LAYOUT, "official": lambda settings: LAYOUT}
