"""Swin-Unet: Swin's stages down and the same stages up again, each joined by what stood at its size on the way down.

Cao et al., ECCV 2022 workshops, arXiv:2105.05537.
"""
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from vitrail.backbones.swin import PatchMerging, swin_blocks, window_block
from vitrail.core.card import Figures, Idea, Paper, variant
from vitrail.core.keys import Keys
from vitrail.nn import Features, PatchEmbed, Head, each_stage, init, mean_finest, drop_path_rates
from vitrail.ops.windows import unfold_windows

PAPER = Paper(title="Swin-Unet: Unet-like Pure Transformer for Medical Image Segmentation", arxiv="2105.05537",
              authors="Cao et al.", year=2022, venue="ECCV workshops", code="HuCaoFighting/Swin-Unet",
              builds_on=("backbones.swin",),
              ideas=(Idea("backbones.swin", "abstract", "the blocks of encoder and decoder"),
                     Idea("unet", "abstract", "encoder and decoder joined at each size")))


class PatchExpanding(nn.Module):
    """A token becomes four of half its width (section 3.6): (B, H, W, C) -> (B, 2H, 2W, C/2), normed."""

    def __init__(self, dim: int):
        super().__init__()
        self.expand, self.norm = nn.Linear(dim, 2 * dim, bias=False), nn.LayerNorm(dim // 2)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.shape[1]
        x = self.expand(x).flatten(1, 2).unflatten(-1, (4, -1))             # (B, N, 4, D)
        return self.norm(unfold_windows(x, 2, rows))


class UpStage(nn.Module):
    """A stage of the way up: expand, join, attend: x (B, h, w, 2C) and skip (B, H, W, C) -> (B, H, W, C).

    Where the way down had to pad an odd side, what was expanded is cut to the skip's size.
    """

    def __init__(self, dim: int, blocks: nn.Module):
        super().__init__()
        self.expand, self.join, self.blocks = PatchExpanding(2 * dim), nn.Linear(2 * dim, dim), blocks

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:                   # (B, H, W, C)
        H, W = skip.shape[1:3]
        x = self.expand(x)[:, :H, :W]                                       # (B, H, W, C)
        return self.blocks(self.join(torch.cat([x, skip], -1)))


class SwinUnet(nn.Module):
    """A U of Swin stages (section 3.2): image (B, 3, H, W) -> the maps of the way up, (B, ⌈H/s⌉, ⌈W/s⌉, C), from the
    finest, s = patch, to the lowest of the U; these two are normed.

    depths, heads: of the stages down; those up mirror them, rates of stochastic depth included. A skip is what goes
    into a stage's blocks, not what comes out of them, as released.
    """

    stem_weights = ("down.0.proj.weight",)

    def __init__(self, *, patch: int = 4, dim: int = 96, depths: tuple[int, ...] = (2, 2, 2, 2),
                 heads: tuple[int, ...] = (3, 6, 12, 24), window: int = 7, mlp_ratio: float = 4.0, in_chans: int = 3,
                 drop_path: float = 0.0):
        super().__init__()
        each_stage(depths=depths, heads=heads)
        self.channels = tuple(dim << i for i in range(len(depths)))
        self.strides = tuple(patch << i for i in range(len(depths)))
        drops = drop_path_rates(drop_path, sum(depths))

        def blocks(i: int) -> nn.Module:
            first = sum(depths[:i])
            return swin_blocks(self.channels[i], heads[i], window, mlp_ratio, drops[first:first + depths[i]])

        read = PatchEmbed(patch, dim, in_chans=in_chans, norm=nn.LayerNorm(dim))
        self.down = nn.ModuleList(PatchMerging(width // 2) if i else read for i, width in enumerate(self.channels))
        self.stages = nn.ModuleList(blocks(i) for i in range(len(depths)))
        self.up = nn.ModuleList(UpStage(width, blocks(i)) for i, width in enumerate(self.channels[:-1]))
        self.norm, self.norm_up = nn.LayerNorm(self.channels[-1]), nn.LayerNorm(dim)
        init.truncated(self)

    def forward(self, image: Tensor) -> Features:
        x, skips = image, []
        for down, stage in zip(self.down, self.stages, strict=True):
            x = down(x)                                                     # (B, H, W, C)
            skips.append(x)
            x = stage(x)
        maps = [x := self.norm(x)]
        for up, skip in zip(reversed(self.up), reversed(skips[:-1]), strict=True):
            maps.append(x := up(x, skip))
        maps[-1] = self.norm_up(x)
        return Features(maps=tuple(reversed(maps)))

    def make_head(self, classes: int) -> nn.Module:
        """A linear layer on the mean of the finest map. The paper segments, by a head that reads that map."""
        return Head(self.channels[0], classes, mean_finest, init_weights=init.truncated_linears)


swin_unet = variant(SwinUnet, Figures(params=27_117_388, gflops=5.604))


def official(settings: Mapping[str, Any]) -> Keys:
    """The authors' names: stages up are counted from the lowest, and a stage ends with the expanding that begins the
    next one. Their segmentation head, `up` and `output`, is no part of the body."""
    last, table = len(settings["depths"]) - 1, {
        "patch_embed.*": "backbone.down.0.*", "norm.*": "backbone.norm.*", "norm_up.*": "backbone.norm_up.*",
        "head.*": "head.linear.*"}
    for i in range(last + 1):
        table |= window_block(f"layers.{i}.blocks.{{}}.", f"backbone.stages.{i}.{{}}.")
    for i in range(last):
        k = last - i                                                        # their number of a stage up
        expand = f"layers_up.{k - 1}.upsample." if k > 1 else "layers_up.0."
        table |= {
            f"layers.{i}.downsample.norm.*":        f"backbone.down.{i + 1}.norm.*",
            f"layers.{i}.downsample.reduction.*":   f"backbone.down.{i + 1}.reduce.*",
            **window_block(f"layers_up.{k}.blocks.{{}}.", f"backbone.up.{i}.blocks.{{}}."),
            f"{expand}expand.*":                    f"backbone.up.{i}.expand.expand.*",
            f"{expand}norm.*":                      f"backbone.up.{i}.expand.norm.*",
            f"concat_back_dim.{k}.*":               f"backbone.up.{i}.join.*",
        }
    return Keys(table, drop=("up.*", "output.*", "*.attn_mask", "*.relative_position_index"))


KEYS = {"official": official}
