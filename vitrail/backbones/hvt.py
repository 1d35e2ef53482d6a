"""HVT: the sequence of patches is pooled again and again, as maps are in convolutional nets, and no class token asks.

Pan et al., ICCV 2021, arXiv:2103.10619.
"""
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.core.card import Figures, Idea, Paper, Variant, Weights, variant
from vitrail.core.errors import CheckpointError, ModelError
from vitrail.core.keys import Keys
from vitrail.nn import (Block, Chain, Features, LayerNorm, PatchEmbed, PositionTable, Head, SelfAttention, Stack,
                        grid_of, init, drop_path_rates, transformer_block)
from vitrail.nn.names import block_names

PAPER = Paper(title="Scalable Vision Transformers with Hierarchical Pooling", arxiv="2103.10619", authors="Pan et al.",
              year=2021, venue="ICCV", code="MonashAI/HVT", license="Apache-2.0",
              ideas=(Idea("backbones.vit", "method", "the network whose sequence it pools"),
                     Idea("backbones.resnet", "introduction", "coarser maps in deeper layers"),
                     Idea("backbones.deit", "experiments", "the sizes and the training")))
SIZE, STRIDE = 3, 2         # of every pooling


def pooled(length: int) -> int:
    """How many tokens a pooling leaves of so many. Raises ModelError where there are too few."""
    if isinstance(length, int) and length < SIZE:       # a size that an exported program leaves open is not compared
        raise ModelError(f"a row of {length} tokens is too short to be pooled over {SIZE}: give a larger image, "
                         "smaller patches, or a larger `pool`, with which rows are pooled less often")
    return (length - SIZE) // STRIDE + 1


class PoolRow(nn.Module):
    """The largest of three neighbours, in each channel for itself, at every second place, and new positions
    (section 3.2): (B, N, C) -> (B, ⌊(N - 3)/2⌋ + 1, C).

    They are neighbours in the row: the end of a line of patches beside the beginning of the next. Nothing is padded,
    so the last token of an even number is left out. length: of the rows made; for others the positions are resampled.
    """

    def __init__(self, length: int, dim: int):
        super().__init__()
        self.table = nn.Parameter(torch.zeros(1, length, dim))
        nn.init.trunc_normal_(self.table, std=0.02)

    def forward(self, x: Tensor) -> Tensor:                                     # (B, N, C)
        length = pooled(x.shape[1])
        x = F.max_pool1d(x.mT, SIZE, STRIDE).mT                                 # (B, L, C)
        return x + self.resampled(self.table, length)

    def fit(self, table: Tensor) -> Tensor:
        """A table of a row of another length, resampled for this one. Raises CheckpointError where it is none."""
        if table.ndim != 3 or table.shape[::2] != self.table.shape[::2]:
            raise CheckpointError(f"a table of positions of shape {tuple(table.shape)} does not fit one of "
                                  f"{tuple(self.table.shape)}")
        return self.resampled(table, self.table.shape[1])

    @staticmethod
    def resampled(table: Tensor, length: int) -> Tensor:
        """Linearly, each place the share of the row that it is: (1, N, C) -> (1, length, C)."""
        if isinstance(length, int) and length == table.shape[1]:
            return table
        return F.interpolate(table.mT.float(), size=length, mode="linear", align_corners=False).mT.to(table.dtype)


def mean_prefix(f: Features) -> Tensor:
    """The mean of the tokens that belong to no place: (B, C)."""
    assert f.prefix is not None
    return f.prefix.mean(1)


class HVT(nn.Module):
    """`depth` pre-norm blocks; behind the first of every `pool` of them the row of tokens is pooled (figure 2).

    image (B, 3, H, W) -> one map (B, ⌈H/p⌉, ⌈W/p⌉, dim), that of the first block, and the row that is left at the end,
    normed, as the tokens that belong to no place. The answer is read off the mean of the row. Raises ModelError where
    an image has too few patches to be pooled so often.
    """

    stem_weights = ("patch_embed.proj.weight",)

    def __init__(self, *, image: int | tuple[int, int] = 224, patch: int = 16, dim: int = 384, depth: int = 12,
                 heads: int = 6, mlp_ratio: float = 4.0, pool: int = 12, in_chans: int = 3, drop_path: float = 0.0):
        super().__init__()
        if depth < 1 or pool < 1:
            raise ModelError(f"depth={depth} and pool={pool}: there is at least one block, and one before a pooling")
        self.channels, self.strides = (dim,), (patch,)
        grid = grid_of(image, patch)
        self.patch_embed, self.position = PatchEmbed(patch, dim, in_chans=in_chans), PositionTable(grid, dim)

        def block(p: float) -> Block:
            return transformer_block(SelfAttention(dim, heads), dim, mlp_ratio, p)
        drops, length = drop_path_rates(drop_path, depth), grid[0] * grid[1]
        self.first, self.stages = Stack([block(drops[0])]), nn.ModuleList()
        for start in range(0, depth, pool):         # a stage is a pooling and the blocks up to the next one
            length = pooled(length)
            blocks = Stack(block(p) for p in drops[start + 1:start + pool + 1])
            self.stages.append(Chain(pool=PoolRow(length, dim), blocks=blocks))
        self.norm = LayerNorm(dim)
        init.truncated(self)

    def forward(self, image: Tensor) -> Features:
        x = self.patch_embed(image)                                                # (B, h, w, C)
        grid = x.shape[1:3]
        x = self.first(self.position(x.flatten(1, 2), grid)).unflatten(1, grid)     # (B, h, w, C)
        row = x.flatten(1, 2)                                                   # (B, N, C)
        for stage in self.stages:
            row = stage(row)                                                    # (B, L, C)
        return Features(maps=(x,), prefix=self.norm(row))

    def make_head(self, classes: int) -> nn.Module:
        return Head(self.channels[-1], classes, mean_prefix, init_weights=init.truncated_linears)


def _size(params: int, gflops: float, said: tuple[float, float], release: str, top1: float,
          **args: Any) -> Variant[HVT]:
    where = "README of MonashAI/HVT"
    figures = Figures(params=params, gflops=gflops, reported={"params_m": said[0], "gflops": said[1]}, where=where)
    return variant(HVT, figures, Weights(
        name="in1k", source=f"https://github.com/zhuang-group/HVT/releases/download/{release}.pth", keys="official",
        inside="model", license="Apache-2.0", reported={"top1": top1}, where=where), **args)


hvt_ti_1 = _size(5_735_656, 0.642, (5.74, 0.64), "v1.0/hvt_ti_1", 69.64, dim=192, heads=3)
hvt_s_1 = _size(22_087_144, 2.402, (22.09, 2.40), "v1.1/hvt_s_1", 78.00)
hvt_s_2 = _size(22_105_576, 1.941, (22.11, 1.94), "v1.0/hvt_s_2", 77.36, pool=6)
hvt_s_3 = _size(22_114_408, 1.620, (22.11, 1.62), "v1.0/hvt_s_3", 76.32, pool=4)
# of the width of an S: only its cost is a Ti's
scale_hvt_ti_4 = _size(22_118_632, 1.394, (22.12, 1.39), "v1.0/scale_hvt_ti_4", 75.23, pool=3)


def official(settings: Mapping[str, Any]) -> Keys:
    """The authors count blocks through, and keep a pooling's positions in the block before it."""
    table = {"patch_embed.proj.*": "backbone.patch_embed.proj.*", "pos_embed": "backbone.position.table",
             "norm.*": "backbone.norm.*", "head.*": "head.linear.*"}
    pool = settings["pool"]
    for i in range(settings["depth"]):
        at = f"backbone.stages.{(i - 1) // pool}.blocks.{(i - 1) % pool}." if i else "backbone.first.0."
        if i % pool == 0:
            table[f"blocks.{i}.pos_embed"] = f"backbone.stages.{i // pool}.pool.table"
        table |= block_names(f"blocks.{i}.", at)
    return Keys(table)


KEYS = {"official": official}
