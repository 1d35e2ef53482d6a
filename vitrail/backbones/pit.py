"""PiT: a plain transformer that, like a convolutional network, shrinks its map and widens its tokens as it goes deeper.

Heo et al., ICCV 2021, arXiv:2103.16302.
"""
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from vitrail.backbones.deit import DistilledReadout
from vitrail.core.card import Figures, Idea, Paper, Variant, Weights, variant
from vitrail.core.errors import ModelError
from vitrail.core.keys import Fold, Keys, Row
from vitrail.nn import (Conv, Features, LayerNorm, PositionTable, Prefix, Head, SelfAttention, Stack, class_token,
                        each_stage, grid_of, pad_image, drop_path_rates, transformer_block)
from vitrail.nn.names import block_names

PAPER = Paper(title="Rethinking Spatial Dimensions of Vision Transformers", arxiv="2103.16302", authors="Heo et al.",
              year=2021, venue="ICCV", code="naver-ai/pit", license="Apache-2.0",
              builds_on=("backbones.deit",),
              ideas=(Idea("backbones.vit", "section 3.2", "the network that it pools"),
                     Idea("backbones.resnet", "section 3.1", "maps that shrink while channels grow"),
                     Idea("backbones.deit", "experiments", "the training and the distillation")))


class Pool(nn.Module):
    """Half the map, twice the width (section 3.2): a depthwise 3 x 3 convolution with stride 2, two filters a channel.

    The tokens that have no place are widened by a linear layer: (B, H, W, C), (B, P, C) -> (B, ⌈H/2⌉, ⌈W/2⌉, 2C),
    (B, P, 2C).
    """

    def __init__(self, dim: int):
        super().__init__()
        self.conv, self.widen = Conv(dim, 2 * dim, 3, 2, 1, groups=dim), nn.Linear(dim, 2 * dim)

    def forward(self, x: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        return self.conv(x), self.widen(tokens)


class PiT(nn.Module):
    """Overlapping patches, then stages of plain blocks with a Pool between them (table 1).

    image (B, 3, H, W) -> a map a stage and the tokens, alone normed. Patches of `patch` pixels stand half a patch apart
    and are not padded around the image, so a map is smaller than its stride tells: see `grids`. A size that half a
    patch does not divide is padded with zeros below and to the right.
    Raises ModelError for an odd patch, depths without heads, and an image smaller than a patch.
    """

    stem_weights = ("patch_embed.weight",)

    def __init__(self, *, image: int | tuple[int, int] = 224, patch: int = 16, dim: int = 144,
                 depths: tuple[int, ...] = (2, 6, 4), heads: tuple[int, ...] = (3, 6, 12), mlp_ratio: float = 4.0,
                 tokens: int = 1, in_chans: int = 3, drop_path: float = 0.0):
        super().__init__()
        if patch < 2 or patch % 2:
            raise ModelError(f"patch={patch}: patches stand half a patch apart, so their size is an even number")
        each_stage(depths=depths, heads=heads)
        self.patch, self.tokens = patch, tokens
        self.channels = tuple(dim << i for i in range(len(depths)))
        self.strides = tuple(patch // 2 << i for i in range(len(depths)))
        self.patch_embed, self.prefix = Conv(in_chans, dim, patch, patch // 2), Prefix(tokens, dim)
        self.position = PositionTable(patches(image, patch), dim)
        self.pools = nn.ModuleList(Pool(width) for width in self.channels[:-1])
        # as released: the last block stays a step below drop_path
        drops = iter(drop_path_rates(drop_path, sum(depths) + 1))
        self.stages = nn.ModuleList(
            Stack(transformer_block(SelfAttention(width, n), width, mlp_ratio, next(drops)) for _ in range(depth))
            for width, n, depth in zip(self.channels, heads, depths, strict=True))
        self.norm = LayerNorm(self.channels[-1])
        # the published code leaves convolutions and linear layers as torch makes them
        nn.init.trunc_normal_(self.prefix.tokens, std=0.02)
        nn.init.trunc_normal_(self.position.table, std=0.02)

    def grids(self, height: int, width: int) -> tuple[tuple[int, int], ...]:
        """Height and width of each map of an image: that of the patches, then half of the one before."""
        h, w = patches((height, width), self.patch)
        return tuple((-(-h // (1 << i)), -(-w // (1 << i))) for i in range(len(self.channels)))

    def forward(self, image: Tensor) -> Features:
        if min(image.shape[2:]) <= self.patch // 2:
            raise ModelError(f"an image of {image.shape[2]} x {image.shape[3]} pixels holds no patch of {self.patch} x "
                             f"{self.patch}: PiT needs more than {self.patch // 2} each way")
        x = self.patch_embed(pad_image(image, self.patch // 2).permute(0, 2, 3, 1))        # (B, h, w, D)
        grid = x.shape[1:3]
        x = self.position(x.flatten(1, 2), grid).unflatten(1, grid)                     # (B, h, w, D)
        tokens, maps = self.prefix.tokens.expand(x.shape[0], -1, -1), []
        for i, blocks in enumerate(self.stages):
            if i:
                x, tokens = self.pools[i - 1](x, tokens)
            y = blocks(torch.cat([tokens, x.flatten(1, 2)], 1))                         # (B, N, C)
            tokens, x = y[:, :self.tokens], y[:, self.tokens:].unflatten(1, x.shape[1:3])
            maps.append(x)
        return Features(maps=tuple(maps), prefix=self.norm(tokens))

    def make_head(self, classes: int) -> nn.Module:
        """A linear layer on the class token; with two tokens DeiT's two."""
        dim = self.channels[-1]
        return Head(dim, classes, class_token) if self.tokens == 1 else DistilledReadout(dim, classes)


def patches(image: int | tuple[int, int], patch: int) -> tuple[int, int]:
    """How many patches, half a patch apart, an image has down and across."""
    h, w = grid_of(image, patch // 2)
    return h - 1, w - 1


def _size(params: int, gflops: float, file: str, top1: float, **args: Any) -> Variant[PiT]:
    """A size with the release of its tensors; the authors' own files are on a drive that no program may fetch from."""
    return variant(PiT, Figures(params=params, gflops=gflops),
                   Weights(name="in1k", source=f"hf://timm/{file}.in1k/model.safetensors", keys="timm", crop=0.9,
                           license="Apache-2.0", reported={"top1": top1}, where="README of naver-ai/pit"), **args)


_TI: dict[str, Any] = dict(dim=64, heads=(2, 4, 8))
_XS: dict[str, Any] = dict(dim=96, heads=(2, 4, 8))
_S: dict[str, Any] = dict(dim=144, heads=(3, 6, 12))
_B: dict[str, Any] = dict(dim=256, heads=(4, 8, 16), depths=(3, 6, 4), patch=14)

pit_ti = _size(4_847_272, 0.699, "pit_ti_224", 73.0, **_TI)
pit_xs = _size(10_618_888, 1.395, "pit_xs_224", 78.1, **_XS)
pit_s = _size(23_461_912, 2.871, "pit_s_224", 80.9, **_S)
pit_b = _size(73_764_840, 12.402, "pit_b_224", 82.0, **_B)
pit_ti_distilled = _size(5_104_336, 0.705, "pit_ti_distilled_224", 74.6, tokens=2, **_TI)
pit_xs_distilled = _size(11_003_984, 1.407, "pit_xs_distilled_224", 79.1, tokens=2, **_XS)
pit_s_distilled = _size(24_039_056, 2.897, "pit_s_distilled_224", 81.9, tokens=2, **_S)
pit_b_distilled = _size(74_790_096, 12.482, "pit_b_distilled_224", 84.0, tokens=2, **_B)


def _keys(settings: Mapping[str, Any], pool: str) -> Keys:
    """The authors' code and timm's, which differ in where a pool stands: `pool`, by the number of the stage before."""
    grid = patches(settings["image"], settings["patch"])
    table = block_names("transformers.{}.blocks.{}.", "backbone.stages.{}.{}.")
    for i in range(len(settings["depths"]) - 1):
        table |= {f"{pool.format(i, i + 1)}.conv.*": f"backbone.pools.{i}.conv.*",
                  f"{pool.format(i, i + 1)}.fc.*": f"backbone.pools.{i}.widen.*"}
    return Keys({**table, "patch_embed.conv.*": "backbone.patch_embed.*", "cls_token": "backbone.prefix.tokens",
                 "norm.*": "backbone.norm.*", "head.*": "head.linear.*", "head_dist.*": "head.distilled.*"},
                rows=[Row(("pos_embed",), "backbone.position.table",       # (1, C, h, w)
                          Fold(lambda t: t.flatten(2).mT, lambda t: t.mT.unflatten(2, grid)))])


KEYS = {"timm": lambda settings: _keys(settings, "transformers.{1}.pool"),
        "official": lambda settings: _keys(settings, "pools.{0}")}
