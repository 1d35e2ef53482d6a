"""Swin: attend inside windows; shift the windows in every other block, so that they talk.

Liu et al., ICCV 2021, arXiv:2103.14030.
"""
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.core.card import Figures, Idea, Paper, Variant, Weights, variant
from vitrail.core.keys import Keys
from vitrail.nn import (Attend, Chain, Features, Merge, PatchEmbed, Head, RelativeBias, Split, Stack, Strided, Windows,
                        each_stage, init, mean_map, pyramid, drop_path_rates, transformer_block)
from vitrail.nn.names import block_names

PAPER = Paper(title="Swin Transformer: Hierarchical Vision Transformer using Shifted Windows", arxiv="2103.14030",
              authors="Liu et al.", year=2021, venue="ICCV", code="microsoft/Swin-Transformer", license="MIT",
              ideas=(Idea("backbones.vit", "section 3.1", "patches as tokens, and the blocks"),
                     Idea("backbones.resnet", "section 3.1", "the resolutions of the stages"),
                     Idea("attention.stand_alone", "introduction", "attention to a neighbourhood"),
                     Idea("attention.local_relation", "section 3.2", "a bias of the scores by the offset"),
                     Idea("relation_networks", "section 3.2", "a bias of the scores by the offset"),
                     Idea("t5", "section 3.2", "a bias of the scores by the offset"),
                     Idea("backbones.deit", "section 4.1", "the training on ImageNet alone")))


class WindowAttention(nn.Module):
    """Multi-head self-attention inside groups of size x size tokens, with a learned bias for each offset (equation 4):
    (B, H, W, C) -> same. Offsets are counted in tokens of the group."""

    def __init__(self, dim: int, heads: int, groups: Windows | Strided):
        super().__init__()
        self.groups = groups
        self.qkv, self.attend, self.out = Split(dim, heads, 3), Attend(), Merge(dim)
        self.bias = RelativeBias(groups.size, heads)

    def split(self, x: Tensor) -> Tensor:
        """The groups: (B, H, W, C) -> (B, G, n, C)."""
        return self.groups.split(x)

    def forward(self, x: Tensor) -> Tensor:                         # (B, H, W, C)
        H, W = x.shape[1:3]
        q, k, v = self.qkv(self.split(x))                           # (B, G, h, n, D)
        bias, mask = self.bias(), self.groups.mask(H, W, like=x)
        if mask is not None:
            bias = bias + mask[:, None]                             # (G, h, n, n)
        return self.groups.merge(self.out(self.attend(q, k, v, bias)), H, W)


def four_neighbours(x: Tensor) -> Tensor:
    """Every 2 x 2 tokens side by side: (B, H, W, C) -> (B, ⌈H/2⌉, ⌈W/2⌉, 4C).

    Within the four the row varies first, as in the released weights. An odd side gets a row of zeros.
    """
    if x.shape[1] % 2 or x.shape[2] % 2:
        x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
    top, bottom = x[:, 0::2], x[:, 1::2]
    return torch.cat([top[:, :, 0::2], bottom[:, :, 0::2], top[:, :, 1::2], bottom[:, :, 1::2]], -1)


class PatchMerging(nn.Module):
    """Four neighbours become one token of twice the width (section 3.1): (B, H, W, C) -> (B, ⌈H/2⌉, ⌈W/2⌉, 2C)."""

    def __init__(self, dim: int):
        super().__init__()
        self.norm, self.reduce = nn.LayerNorm(4 * dim), nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:                         # (B, H, W, C)
        return self.reduce(self.norm(four_neighbours(x)))


def swin_blocks(dim: int, heads: int, window: int, mlp_ratio: float, drops: Sequence[float]) -> Stack:
    """One block for each rate of stochastic depth; every other one has shifted windows (equation 3)."""
    return Stack(transformer_block(WindowAttention(dim, heads, Windows(window, shift=window // 2 * (i % 2))),
                                   dim, mlp_ratio, drop, norm=nn.LayerNorm) for i, drop in enumerate(drops))


class Swin(nn.Module):
    """Four stages of windowed blocks (section 3.1), each after the first at half the size and twice the width.

    image (B, 3, H, W) -> a map (B, ⌈H/s⌉, ⌈W/s⌉, C) a stage, s = patch, 2 patch, 4 patch, ...; the last one normed.
    """

    stem_weights = ("stages.0.down.proj.weight",)

    def __init__(self, *, patch: int = 4, dim: int = 96, depths: tuple[int, ...] = (2, 2, 6, 2),
                 heads: tuple[int, ...] = (3, 6, 12, 24), window: int = 7, mlp_ratio: float = 4.0, in_chans: int = 3,
                 drop_path: float = 0.0):
        super().__init__()
        each_stage(depths=depths, heads=heads)
        self.channels = tuple(dim << i for i in range(len(depths)))
        self.strides = tuple(patch << i for i in range(len(depths)))
        drops = iter(drop_path_rates(drop_path, sum(depths)))

        def stage(i: int, width: int) -> Chain:
            down = PatchMerging(width // 2) if i else PatchEmbed(patch, dim, in_chans=in_chans, norm=nn.LayerNorm(dim))
            return Chain(down=down, blocks=swin_blocks(width, heads[i], window, mlp_ratio,
                                                       [next(drops) for _ in range(depths[i])]))

        self.stages = nn.ModuleList(stage(i, width) for i, width in enumerate(self.channels))
        self.norm = nn.LayerNorm(self.channels[-1])
        init.truncated(self)

    def forward(self, image: Tensor) -> Features:
        *finer, x = pyramid(image, self.stages)                     # (B, H, W, C)
        return Features(maps=(*finer, self.norm(x)))

    def make_head(self, classes: int) -> nn.Module:
        """A linear layer on the mean of the last map."""
        return Head(self.channels[-1], classes, mean_map, init_weights=init.truncated_linears)


def _released(size: str, tag: str, *, image: int = 224, top1: float | None = None, release: str = "v1.0.0",
              file: str = "") -> tuple[Weights, Weights]:
    """One set of tensors at its two addresses: timm's copy, and the authors' file (whose crop is 224 of 256)."""
    stem = f"swin_{size}_patch4_window{image // 32}_{image}"
    seen: dict[str, Any] = dict(license="MIT", image=image, classes=21841 if tag == "in22k" else 1000,
                                reported={} if top1 is None else {"top1": top1},
                                where="" if top1 is None else "README of microsoft/Swin-Transformer")
    return (Weights(name=f"ms_{tag}", source=f"hf://timm/{stem}.ms_{tag}/model.safetensors", keys="timm",
                    crop=0.9 if image == 224 else 1.0, **seen),
            Weights(name=f"official_{tag}", keys="official", inside="model", crop=0.875 if image == 224 else 1.0,
                    source=f"https://github.com/SwinTransformer/storage/releases/download/{release}/{stem}{file}.pth",
                    **seen))


def _in22k(size: str, top1: float, *, image: int = 224, release: str = "v1.0.0",
           tuned: str = "_22kto1k") -> tuple[Weights, ...]:
    """Trained on ImageNet-22k: fine-tuned on ImageNet-1k, and as it was before."""
    return (*_released(size, "in22k_ft_in1k", image=image, top1=top1, release=release, file=tuned),
            *_released(size, "in22k", image=image, release=release, file="_22k"))


def _torchvision(size: str, digest: str, resize: int, top1: float) -> Weights:
    """torchvision's own training."""
    return Weights(name="tv_in1k", source=f"https://download.pytorch.org/models/swin_{size}-{digest}.pth",
                   keys="torchvision", license="BSD-3-Clause", crop=224 / resize, reported={"top1": top1},
                   where=f"torchvision.models.Swin_{size.upper()}_Weights")


def _size(params: int, gflops: float, *weights: Weights, image: int = 224, **args: Any) -> Variant[Swin]:
    return variant(Swin, Figures(params=params, gflops=gflops, image=image), *weights, **args)


_LATER: dict[str, Any] = dict(release="v1.0.8", tuned="_22kto1k_finetune")
_T: dict[str, Any] = dict(dim=96, heads=(3, 6, 12, 24), depths=(2, 2, 6, 2))
_S: dict[str, Any] = dict(dim=96, heads=(3, 6, 12, 24), depths=(2, 2, 18, 2))
_B: dict[str, Any] = dict(dim=128, heads=(4, 8, 16, 32), depths=(2, 2, 18, 2))
_L: dict[str, Any] = dict(dim=192, heads=(6, 12, 24, 48), depths=(2, 2, 18, 2))

swin_t = _size(28_288_354, 4.491, *_released("tiny", "in1k", top1=81.2), *_in22k("tiny", 80.9, **_LATER),
               _torchvision("t", "704ceda3", 232, 81.474), **_T)
swin_s = _size(49_606_258, 8.741, *_released("small", "in1k", top1=83.2), *_in22k("small", 83.2, **_LATER),
               _torchvision("s", "5e29d889", 246, 83.196), **_S)
swin_b = _size(87_768_224, 15.431, *_released("base", "in1k", top1=83.5), *_in22k("base", 85.2),
               _torchvision("b", "68c6b09e", 238, 83.582), **_B)
swin_b_384 = _size(87_903_584, 47.083, *_released("base", "in1k", image=384, top1=84.5),
                   *_in22k("base", 86.4, image=384), image=384, window=12, **_B)
swin_l = _size(196_532_476, 34.476, *_in22k("large", 86.3), **_L)
swin_l_384 = _size(196_735_516, 103.919, *_in22k("large", 87.3, image=384), image=384, window=12, **_L)


def window_block(there: str, here: str) -> dict[str, str]:
    """A block as the authors, and all who build on them, name it."""
    return {there + "attn.relative_position_bias_table": here + "mix.fn.bias.table", **block_names(there, here)}


BLOCKS = {"patch_embed.*": "backbone.stages.0.down.*", "norm.*": "backbone.norm.*",
          **window_block("layers.{}.blocks.{}.", "backbone.stages.{}.blocks.{}.")}
DROP = ("layers.{}.blocks.{}.attn_mask", "layers.{}.blocks.{}.attn.relative_position_index")
TIMM = Keys({
    **BLOCKS,
    "layers.{}.downsample.norm.*":      "backbone.stages.{}.down.norm.*",
    "layers.{}.downsample.reduction.*": "backbone.stages.{}.down.reduce.*",
    "head.fc.*":                        "head.linear.*",
}, drop=DROP)


def merging(stages: int) -> dict[str, str]:
    """The authors' names of the mergings: there, one ends a stage instead of beginning the next."""
    return {f"layers.{i}.downsample.{theirs}.*": f"backbone.stages.{i + 1}.down.{ours}.*"
            for i in range(stages - 1) for theirs, ours in (("norm", "norm"), ("reduction", "reduce"))}


def official(settings: Mapping[str, Any]) -> Keys:
    """The authors' names."""
    return Keys({**BLOCKS, **merging(len(settings["depths"])), "head.*": "head.linear.*"}, drop=DROP)


def torchvision(settings: Mapping[str, Any]) -> Keys:
    """The names of torchvision's own training: one sequence of embedding, blocks, merging, blocks, ..."""
    table = {"features.0.0.*": "backbone.stages.0.down.proj.*", "features.0.2.*": "backbone.stages.0.down.norm.*"}
    for i in range(len(settings["depths"])):
        there, here = f"features.{2 * i + 1}.{{}}.", f"backbone.stages.{i}.blocks.{{}}."
        table |= {there + "mlp.0.*": here + "mlp.fn.fc1.*", there + "mlp.3.*": here + "mlp.fn.fc2.*",
                  **window_block(there, here)}
        if i:
            table |= {f"features.{2 * i}.norm.*":           f"backbone.stages.{i}.down.norm.*",
                      f"features.{2 * i}.reduction.*":      f"backbone.stages.{i}.down.reduce.*"}
    return Keys({**table, "norm.*": "backbone.norm.*", "head.*": "head.linear.*"},
                drop=("features.{}.{}.attn.relative_position_index",))


KEYS = {"timm": lambda settings: TIMM, "official": official, "torchvision": torchvision}
