"""CMT: a pyramid transformer with convolutions around and inside its attention, and a learned bias for all its places.

Guo et al., CVPR 2022, arXiv:2107.06263.
"""
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from vitrail.core.card import Figures, Idea, Paper, Variant, Weights, variant
from vitrail.core.errors import CheckpointError
from vitrail.core.keys import Fold, Keys, Row
from vitrail.nn import (BatchNorm, Chain, Conv, DropPath, Features, Gelu, LayerNorm, MapPatchEmbed, ReducedAttention,
                        Residual, Shrink, Stack, each_stage, grid_of, init, pyramid, drop_path_rates, squares)
from vitrail.ops.positions import resample_positions

PAPER = Paper(title="CMT: Convolutional Neural Networks Meet Vision Transformers", arxiv="2107.06263",
              authors="Guo et al.", year=2022, venue="CVPR", code="huawei-noah/Efficient-AI-Backbones",
              license="Apache-2.0",
              ideas=(Idea("backbones.vit", "introduction", "attention over patches"),
                     Idea("backbones.resnet", "method", "stem and stages"),
                     Idea("backbones.pvt", "related work", "stages; keys and values from a smaller map"),
                     Idea("backbones.mobilenet_v2", "section 3.2", "the inverted residual as the Mlp"),
                     Idea("efficientnet", "method", "scaling depth, width and image together")))

Grid = tuple[int, int]


class PlaceBias(nn.Module):
    """One learned bias a head for each place of a map and each cell of the reduced one: (heads, N, M) (B in the
    equation of lightweight multi-head self-attention).

    Not a table over offsets: it is tied to a grid. For another one it is resampled over the places, then over the
    cells (`ops.positions`). The paper resamples it bicubically and does not say along what; the release takes one size.
    """

    def __init__(self, grid: Grid, reduction: int, heads: int):
        super().__init__()
        self.grid, self.reduction = grid, reduction
        self.table = nn.Parameter(torch.zeros(heads, math.prod(grid), math.prod(self.cells(grid))))

    def cells(self, grid: Grid) -> Grid:
        return max(1, grid[0] // self.reduction), max(1, grid[1] // self.reduction)

    def forward(self, grid: Grid) -> Tensor:
        return self.table if grid == self.grid else self.resampled(self.table, self.grid, grid)

    def resampled(self, table: Tensor, old: Grid, grid: Grid) -> Tensor:
        heads, x = table.shape[0], table.permute(1, 0, 2).flatten(1)[None]                  # (1, N, heads·M)
        x = resample_positions(x, grid, old=old).unflatten(2, (heads, -1)).permute(0, 3, 1, 2)
        x = resample_positions(x.flatten(2), self.cells(grid), old=self.cells(old))         # (1, M, N·heads)
        return x[0].unflatten(1, (-1, heads)).permute(2, 1, 0).contiguous()

    def fit(self, table: Tensor) -> Tensor:
        """A table of another (square) grid, resampled for this one. Raises CheckpointError where it is none."""
        side = math.isqrt(table.shape[1]) if table.ndim == 3 else 0
        wanted = (self.table.shape[0], side * side, math.prod(self.cells((side, side))))
        if not side or table.shape != wanted:
            raise CheckpointError(f"a table of biases of shape {tuple(table.shape)} does not fit a model with "
                                  f"{self.table.shape[0]} heads and keys reduced {self.reduction} times a side: it is "
                                  "not of a square map")
        return self.resampled(table, (side, side), self.grid)


def conv_act(channels: int, dim: int, stride: int = 1) -> Chain:
    """A 3 x 3 convolution, GELU, and only then a batch norm, as everywhere in this network."""
    return Chain(conv=Conv(channels, dim, 3, stride, 1), act=Gelu(), norm=BatchNorm(dim))


class InvertedResidualMlp(nn.Module):
    """IRFFN: an Mlp whose hidden channels each pass a 3 x 3 convolution, (B, H, W, C) -> same.

    A residual lies around that convolution alone, before its activation and norm.
    """

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.fc1, self.norm1 = Conv(dim, hidden, 1), BatchNorm(hidden)
        self.conv, self.norm2 = Conv(hidden, hidden, 3, padding=1, groups=hidden), BatchNorm(hidden)
        self.fc2, self.norm3 = Conv(hidden, dim, 1), BatchNorm(dim)
        self.act = Gelu()

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(self.act(self.fc1(x)))                           # (B, H, W, D)
        x = self.norm2(self.act(self.conv(x) + x))                      # (B, H, W, D)
        return self.norm3(self.fc2(x))


class CMTBlock(nn.Module):
    """Local perception, attention to a reduced map, and the inverted residual Mlp; bias is the stage's."""

    def __init__(self, dim: int, heads: int, reduction: int, mlp_ratio: float, drop: float):
        super().__init__()
        reduced = reduction > 1
        reduce = Shrink(dim, reduction, BatchNorm(dim), groups=dim) if reduced else nn.Identity()
        mixer = ReducedAttention(dim, heads, reduce, squares(reduction) if reduced else None)
        self.local = Residual(Conv(dim, dim, 3, padding=1, groups=dim), nn.Identity())
        self.mix = Residual(mixer, LayerNorm(dim), drop=DropPath(drop))
        self.mlp = Residual(InvertedResidualMlp(dim, int(dim * mlp_ratio)), LayerNorm(dim), drop=DropPath(drop))

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        return self.mlp(self.mix(self.local(x), bias))


class Stage(nn.Module):
    """Patches of 2 x 2 places and blocks, which share one bias: (B, H, W, channels) -> (B, ⌈H/2⌉, ⌈W/2⌉, dim)."""

    def __init__(self, down: MapPatchEmbed, bias: PlaceBias, blocks: Stack):
        super().__init__()
        self.down, self.bias, self.blocks = down, bias, blocks

    def forward(self, x: Tensor) -> Tensor:
        x = self.down(x)                                                # (B, h, w, C)
        return self.blocks(x, self.bias((x.shape[1], x.shape[2])))


class WideReadout(nn.Module):
    """A wide layer at every place, its mean over the map, and a linear layer: Features -> (B, classes)."""

    def __init__(self, dim: int, hidden: int, classes: int, dropout: float):
        super().__init__()
        self.expand, self.norm, self.act = Conv(dim, hidden, 1), BatchNorm(hidden), nn.SiLU()
        self.dropout, self.linear = nn.Dropout(dropout), nn.Linear(hidden, classes)

    def forward(self, features: Features) -> Tensor:
        x = self.act(self.norm(self.expand(features.maps[-1])))         # (B, h, w, D)
        return self.linear(self.dropout(x.mean((1, 2))))


class CMT(nn.Module):
    """A stem of three convolutions at half the size, and stages (table 1).

    image (B, 3, H, W) -> a map (B, ⌈H/s⌉, ⌈W/s⌉, C) a stage, s = 4, 8, 16, 32. stem: its channels. hidden, dropout: of
    the head. Raises ModelError where the settings of the stages do not go together.
    """

    stem_weights = ("patch_embed.0.conv.weight",)

    def __init__(self, *, image: int | tuple[int, int] = 224, stem: int = 16,
                 dims: tuple[int, ...] = (46, 92, 184, 368), depths: tuple[int, ...] = (2, 2, 10, 2),
                 heads: tuple[int, ...] = (1, 2, 4, 8), mlp_ratios: tuple[float, ...] = (3.6, 3.6, 3.6, 3.6),
                 reductions: tuple[int, ...] = (8, 4, 2, 1), hidden: int = 1280, dropout: float = 0.1,
                 in_chans: int = 3, drop_path: float = 0.0):
        super().__init__()
        each_stage(dims=dims, depths=depths, heads=heads, mlp_ratios=mlp_ratios, reductions=reductions)
        self.channels, self.strides = tuple(dims), tuple(4 << i for i in range(len(dims)))
        self.hidden, self.dropout = hidden, dropout
        drops = iter(drop_path_rates(drop_path, sum(depths)))
        self.patch_embed = Chain(conv_act(in_chans, stem, 2), conv_act(stem, stem), conv_act(stem, stem))
        self.stages = nn.ModuleList(
            Stage(MapPatchEmbed(2, dims[i - 1] if i else stem, dim, nn.LayerNorm(dim)),
                  PlaceBias(grid_of(image, self.strides[i]), reductions[i], heads[i]),
                  Stack(CMTBlock(dim, heads[i], reductions[i], mlp_ratios[i], next(drops)) for _ in range(depths[i])))
            for i, dim in enumerate(dims))
        init.truncated_linears(self)
        init.kaiming_convs(self)
        for part in self.modules():
            if isinstance(part, PlaceBias):
                nn.init.normal_(part.table)             # of deviation 1, as released

    def forward(self, image: Tensor) -> Features:
        x = self.patch_embed(image.permute(0, 2, 3, 1))                        # (B, H, W, C)
        return Features(maps=pyramid(x, self.stages))

    def make_head(self, classes: int) -> nn.Module:
        head = WideReadout(self.channels[-1], self.hidden, classes, self.dropout)
        init.truncated_linears(head)
        init.kaiming_convs(head)
        return head


def _size(params: int, gflops: float, file: str, top1: float, *, image: int, **args: Any) -> Variant[CMT]:
    """With the authors' file, whose tables are of `image`; they resize to 8/7 of it before the crop."""
    return variant(CMT, Figures(params=params, gflops=gflops, image=image),
                   Weights(name="official", keys="official", inside="model", license="MIT", image=image,
                           source=f"https://github.com/ggjy/CMT.pytorch/releases/download/release-v1/{file}.pth",
                           reported={"top1": top1}, where="README of ggjy/CMT.pytorch"), image=image, **args)


cmt_ti = _size(9_492_426, 0.639, "cmt_tiny", 79.0, image=160)
cmt_xs = _size(15_247_208, 1.547, "cmt_xs", 81.8, image=192, dims=(52, 104, 208, 416), depths=(3, 3, 12, 3),
               mlp_ratios=(3.77, 3.77, 3.77, 3.77))
cmt_s = _size(26_256_160, 4.032, "cmt_small", 83.5, image=224, stem=32, dims=(64, 128, 256, 512), depths=(3, 3, 16, 3),
              mlp_ratios=(4, 4, 4, 4))
cmt_b = _size(45_715_076, 9.317, "cmt_base", 84.5, image=256, stem=38, dims=(76, 152, 304, 608), depths=(4, 4, 20, 4),
              mlp_ratios=(4, 4, 4, 4), dropout=0.3)


def official(settings: Mapping[str, Any]) -> Keys:
    """The authors' names, which letter the stages; keys and values stand apart there."""
    table, rows = {"_fc.*": "head.expand.*", "_bn.*": "head.norm.*", "head.*": "head.linear.*"}, []
    for i in range(3):
        table |= {f"stem_conv{i + 1}.*": f"backbone.patch_embed.{i}.conv.*",
                  f"stem_norm{i + 1}.*": f"backbone.patch_embed.{i}.norm.*"}
    for i in range(len(settings["depths"])):
        letter = chr(ord("a") + i)
        there, stage = f"blocks_{letter}.{{}}.", f"backbone.stages.{i}."
        here = stage + "blocks.{}."
        rows.append(Row((there + "attn.k.*", there + "attn.v.*"), here + "mix.fn.kv.*",
                        Fold(lambda k, v: torch.cat([k, v]), lambda kv: kv.chunk(2))))
        table |= {
            f"patch_embed_{letter}.*":  stage + "down.*",
            f"relative_pos_{letter}":   stage + "bias.table",
            there + "norm1.*":          here + "mix.norm.*",
            there + "attn.q.*":         here + "mix.fn.q.*",
            there + "attn.sr.0.*":      here + "mix.fn.reduce.conv.*",
            there + "attn.sr.1.*":      here + "mix.fn.reduce.norm.*",
            there + "attn.proj.*":      here + "mix.fn.out.proj.*",
            there + "norm2.*":          here + "mlp.norm.*",
            there + "mlp.conv1.0.*":    here + "mlp.fn.fc1.*",
            there + "mlp.conv1.2.*":    here + "mlp.fn.norm1.*",
            there + "mlp.proj.*":       here + "mlp.fn.conv.*",
            there + "mlp.proj_bn.*":    here + "mlp.fn.norm2.*",
            there + "mlp.conv2.0.*":    here + "mlp.fn.fc2.*",
            there + "mlp.conv2.1.*":    here + "mlp.fn.norm3.*",
            there + "proj.*":           here + "local.fn.*",
        }
    return Keys(table, rows=rows)


KEYS = {"official": official}
