"""Uformer: a U at full resolution, of window attention with an Mlp that looks at neighbours; the way up is modulated.

Wang et al., CVPR 2022, arXiv:2106.03106.
"""
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vitrail.backbones.swin import WindowAttention
from vitrail.core.card import Figures, Idea, Paper, Variant, variant
from vitrail.core.keys import Fold, Keys, Row
from vitrail.nn import (Block, Conv, DepthwiseMlp, DropPath, Features, Gelu, Head, Residual, Stack, Windows,
                        each_stage, init, mean_finest, drop_path_rates)
from vitrail.ops.windows import pad_to

PAPER = Paper(title="Uformer: A General U-Shaped Transformer for Image Restoration", arxiv="2106.03106",
              authors="Wang et al.", year=2022, venue="CVPR", code="ZhendongWang6/Uformer", license="MIT",
              builds_on=("backbones.swin",),
              ideas=(Idea("unet", "section 3.1", "encoder and decoder joined at each size"),
                     Idea("backbones.swin", "section 3.2", "attention inside windows"),
                     Idea("localvit", "section 3.2", "a convolution inside the Mlp"),
                     Idea("ceit", "section 3.2", "a convolution inside the Mlp")))


class ModulatedAttention(WindowAttention):
    """Window attention on tokens to which a learned window is added, the same for every window (section 3.3):
    (B, H, W, C) -> same."""

    def __init__(self, dim: int, heads: int, groups: Windows):
        super().__init__(dim, heads, groups)
        self.modulator = nn.Parameter(torch.zeros(groups.size ** 2, dim))

    def split(self, x: Tensor) -> Tensor:
        return super().split(x) + self.modulator


class Halving(nn.Module):
    """A convolution of 4 x 4 and stride 2: (B, H, W, C) -> (B, ⌈H/2⌉, ⌈W/2⌉, 2C). An odd side gets a row of zeros."""

    def __init__(self, dim: int):
        super().__init__()
        self.conv = Conv(dim, 2 * dim, 4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(pad_to(x, 2))


class UpStage(nn.Module):
    """A stage of the way up: x (B, h, w, D) doubled by a transposed convolution, cut to the skip's size, and the skip
    (B, H, W, C) beside it; then blocks at twice the width: (B, H, W, 2C)."""

    def __init__(self, below: int, dim: int, blocks: nn.Module):
        super().__init__()
        self.expand, self.blocks = nn.ConvTranspose2d(below, dim, 2, 2), blocks

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        H, W = skip.shape[1:3]
        x = self.expand(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)[:, :H, :W]       # (B, H, W, C)
        return self.blocks(torch.cat([x, skip], -1))


class Uformer(nn.Module):
    """A U of LeWin blocks (section 3.1): image (B, 3, H, W) -> the maps of the way up, (B, ⌈H/s⌉, ⌈W/s⌉, C), from the
    finest, s = 1, to the lowest of the U. Nothing is normed behind the last block.

    depths, heads: of the stages down, and of the lowest one. A stage up mirrors the one of its size at twice the width
    with twice the heads, as it holds the skip too; stochastic depth falls again there.
    """

    stem_weights = ("read.weight",)

    def __init__(self, *, dim: int = 32, depths: tuple[int, ...] = (2, 2, 2, 2, 2),
                 heads: tuple[int, ...] = (1, 2, 4, 8, 16), window: int = 8, mlp_ratio: float = 4.0, in_chans: int = 3,
                 drop_path: float = 0.0):
        super().__init__()
        each_stage(depths=depths, heads=heads)
        last = len(depths) - 1
        self.channels = tuple(dim << min(i + 1, last) for i in range(len(depths)))
        self.strides = tuple(1 << i for i in range(len(depths)))
        rates = drop_path_rates(drop_path, sum(depths[:-1])) + [drop_path] * depths[-1]

        def stage(mixer: type[WindowAttention], width: int, heads: int,
                  drops: Sequence[float]) -> Stack:
            return Stack(Block(
                mix=Residual(mixer(width, heads, Windows(window, shift=window // 2 * (j % 2))), nn.LayerNorm(width),
                             drop=DropPath(drop)),
                mlp=Residual(DepthwiseMlp(width, int(width * mlp_ratio), first=Gelu()), nn.LayerNorm(width),
                             drop=DropPath(drop)))
                for j, drop in enumerate(drops))

        def drops(i: int) -> list[float]:
            return rates[sum(depths[:i]):sum(depths[:i + 1])]

        self.read, self.act = Conv(in_chans, dim, 3, 1, 1), nn.LeakyReLU()
        self.stages = nn.ModuleList(stage(WindowAttention, dim << i, heads[i], drops(i)) for i in range(len(depths)))
        self.down = nn.ModuleList(Halving(dim << i) for i in range(last))
        self.up = nn.ModuleList(UpStage(self.channels[i + 1], dim << i, stage(ModulatedAttention, 2 * dim << i,
                                                                            2 * heads[i], drops(i)[::-1]))
                                for i in range(last))
        init.truncated(self)
        for part in self.modules():
            if isinstance(part, ModulatedAttention):
                nn.init.normal_(part.modulator)

    def forward(self, image: Tensor) -> Features:
        x = self.act(self.read(image.permute(0, 2, 3, 1)))                  # (B, H, W, C)
        skips = []
        for stage, down in zip(self.stages, self.down, strict=False):       # the lowest stage has nothing below it
            skips.append(stage(x))
            x = down(skips[-1])
        maps = [self.stages[-1](x)]
        for up, skip in zip(reversed(self.up), reversed(skips), strict=True):
            maps.append(up(maps[-1], skip))
        return Features(maps=tuple(reversed(maps)))

    def make_head(self, classes: int) -> nn.Module:
        """A linear layer on the mean of the finest map. The paper restores images, by a head that reads that map."""
        return Head(self.channels[0], classes, mean_finest, init_weights=init.truncated_linears)


def _size(params: int, gflops: float, **args: Any) -> Variant[Uformer]:
    return variant(Uformer, Figures(params=params, gflops=gflops, image=256), **args)


uformer_t = _size(5_323_986, 11.212, dim=16)
uformer_s = _size(20_814_466, 40.879)
uformer_b = _size(50_944_215, 86.460, depths=(1, 2, 8, 8, 2))

QKV = Fold(lambda q, kv: torch.cat([q, kv]), lambda qkv: qkv.split([len(qkv) // 3, len(qkv) // 3 * 2]))


def official(settings: Mapping[str, Any]) -> Keys:
    """The authors' names: stages up are counted from the lowest. Their output projection is no part of the body."""
    last = len(settings["depths"]) - 1
    table, rows = {"input_proj.proj.0.*": "backbone.read.*", "head.*": "head.linear.*"}, []
    stages = [(f"encoderlayer_{i}.", f"backbone.stages.{i}.") for i in range(last)]
    stages += [("conv.", f"backbone.stages.{last}.")]
    stages += [(f"decoderlayer_{last - 1 - i}.", f"backbone.up.{i}.blocks.") for i in range(last)]
    for there, here in stages:
        there, here = there + "blocks.{}.", here + "{}."
        rows.append(Row((there + "attn.qkv.to_q.*", there + "attn.qkv.to_kv.*"), here + "mix.fn.qkv.proj.*", QKV))
        table |= {
            there + "norm1.*":                              here + "mix.norm.*",
            there + "modulator.weight":                     here + "mix.fn.modulator",
            there + "attn.proj.*":                          here + "mix.fn.out.proj.*",
            there + "attn.relative_position_bias_table":    here + "mix.fn.bias.table",
            there + "norm2.*":                              here + "mlp.norm.*",
            there + "mlp.linear1.0.*":                      here + "mlp.fn.fc1.*",
            there + "mlp.dwconv.0.*":                       here + "mlp.fn.conv.*",
            there + "mlp.linear2.0.*":                      here + "mlp.fn.fc2.*",
        }
    for i in range(last):
        table |= {f"dowsample_{i}.conv.0.*": f"backbone.down.{i}.conv.*",      # their spelling
                  f"upsample_{last - 1 - i}.deconv.0.*": f"backbone.up.{i}.expand.*"}
    return Keys(table, rows=rows, drop=("output_proj.*", "*.relative_position_index"))


KEYS = {"official": official}
