"""Swin V2: compare queries and keys by their angle, norm what a branch gives, and let a network name the biases.

So the network can be made larger, and its windows too, after training. Liu et al., CVPR 2022, arXiv:2111.09883.
"""
import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.backbones.swin import four_neighbours, merging
from vitrail.core.card import Figures, Idea, Paper, Variant, Weights, variant
from vitrail.core.keys import Keys
from vitrail.nn import (Attend, Block, Chain, DropPath, Features, Merge, Mlp, PatchEmbed, Head, Residual, Split, Stack,
                        Windows, init, mean_map, pyramid, drop_path_rates)
from vitrail.positions.log_cpb import LogBias

PAPER = Paper(title="Swin Transformer V2: Scaling Up Capacity and Resolution", arxiv="2111.09883",
              authors="Liu et al.", year=2022, venue="CVPR", code="microsoft/Swin-Transformer", license="MIT",
              builds_on=("backbones.swin", "positions.log_cpb"),
              ideas=(Idea("backbones.swin", "abstract", "the network that it makes larger"),
                     Idea("positions.log_cpb", "section 3.3", "its positions")))


class CosineAttention(nn.Module):
    """Self-attention inside windows by scaled cosines (equation 2): cos(q, k) e^s + bias, one s a head, e^s <= 100.

    x (B, H, W, C) -> same. Queries and values have a bias, keys have none. first: the window of the first training,
    by which the bias measures offsets.
    """

    def __init__(self, dim: int, heads: int, groups: Windows, first: int):
        super().__init__()
        self.groups = groups
        self.qkv, self.attend, self.out = Split(dim, heads, 3, bias=False), Attend(), Merge(dim)
        self.q_bias, self.v_bias = nn.Parameter(torch.zeros(dim)), nn.Parameter(torch.zeros(dim))
        self.log_scale = nn.Parameter(torch.full((heads, 1, 1), math.log(10)))
        self.bias = LogBias(first, heads)

    def forward(self, x: Tensor) -> Tensor:                         # (B, H, W, C)
        H, W = x.shape[1:3]
        q, k, v = self.qkv(self.groups.split(x))                    # (B, G, h, n, D)
        q, v = (t + bias.unflatten(0, (self.qkv.heads, 1, -1)) for t, bias in ((q, self.q_bias), (v, self.v_bias)))
        q = F.normalize(q, dim=-1) * self.log_scale.clamp(max=math.log(100)).exp()
        bias, mask = self.bias((self.groups.size, self.groups.size)), self.groups.mask(H, W, like=x)
        if mask is not None:
            bias = bias + mask[:, None]                             # (G, h, n, n)
        x = self.attend(q, F.normalize(k, dim=-1), v, bias, scale=1.0)      # (B, G, h, n, D)
        return self.groups.merge(self.out(x), H, W)


class NormedMerging(nn.Module):
    """Four neighbours become one token of twice the width, normed behind the projection, not before it as in Swin:
    (B, H, W, C) -> (B, ⌈H/2⌉, ⌈W/2⌉, 2C)."""

    def __init__(self, dim: int):
        super().__init__()
        self.reduce, self.norm = nn.Linear(4 * dim, 2 * dim, bias=False), nn.LayerNorm(2 * dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.reduce(four_neighbours(x)))


def res_post_norm(fn: nn.Module, dim: int, drop: float) -> Residual:
    """x + drop(norm(fn(x))) (section 3.2): what joins the main path is normed, so that it does not grow with depth."""
    return Residual(Chain(fn=fn, norm=nn.LayerNorm(dim)), nn.Identity(), drop=DropPath(drop))


class SwinV2(nn.Module):
    """The four stages of Swin, of blocks with cosine attention and norms behind the branches.

    image (B, 3, H, W) -> a map (B, ⌈H/s⌉, ⌈W/s⌉, C) a stage, s = patch, 2 patch, 4 patch, ...; the last one normed.
    window: that of each stage. first_window: that of the first training, where the window was changed since; it stays
    the measure of offsets (section 3.3), so the released weights hold for one value only.
    """

    stem_weights = ("stages.0.down.proj.weight",)

    def __init__(self, *, patch: int = 4, dim: int = 96, depths: tuple[int, ...] = (2, 2, 6, 2),
                 heads: tuple[int, ...] = (3, 6, 12, 24), window: tuple[int, ...] = (8, 8, 8, 8),
                 first_window: tuple[int, ...] | None = None, mlp_ratio: float = 4.0, in_chans: int = 3,
                 drop_path: float = 0.0):
        super().__init__()
        first = window if first_window is None else first_window
        if not len(depths) == len(heads) == len(window) == len(first):
            raise ValueError(f"{len(depths)} depths, {len(heads)} numbers of heads, {len(window)} windows and "
                             f"{len(first)} first windows: each stage needs one of all")
        self.channels = tuple(dim << i for i in range(len(depths)))
        self.strides = tuple(patch << i for i in range(len(depths)))
        drops = iter(drop_path_rates(drop_path, sum(depths)))

        def block(i: int, width: int, shift: int, drop: float) -> Block:
            mix = CosineAttention(width, heads[i], Windows(window[i], shift), first[i])
            return Block(mix=res_post_norm(mix, width, drop),
                         mlp=res_post_norm(Mlp(width, int(width * mlp_ratio)), width, drop))

        def stage(i: int, width: int) -> Chain:
            down = NormedMerging(width // 2) if i else PatchEmbed(patch, dim, in_chans=in_chans, norm=nn.LayerNorm(dim))
            return Chain(down=down, blocks=Stack(block(i, width, window[i] // 2 * (j % 2), next(drops))
                                                 for j in range(depths[i])))

        self.stages = nn.ModuleList(stage(i, width) for i, width in enumerate(self.channels))
        self.norm = nn.LayerNorm(self.channels[-1])
        init.truncated_linears(self)
        for part in self.modules():
            if isinstance(part, Residual):              # the norms behind the branches: a block is born as x -> x
                nn.init.zeros_(part.fn.norm.weight)     # type: ignore[union-attr, arg-type]

    def forward(self, image: Tensor) -> Features:
        *finer, x = pyramid(image, self.stages)                     # (B, H, W, C)
        return Features(maps=(*finer, self.norm(x)))

    def make_head(self, classes: int) -> nn.Module:
        """A linear layer on the mean of the last map."""
        return Head(self.channels[-1], classes, mean_map, init_weights=init.truncated_linears)


def _released(size: str, window: str, image: int, tag: str, top1: float | None, file: str) -> tuple[Weights, Weights]:
    """One set of tensors at its two addresses: timm's copy, and the authors' file (whose crop is 224 of 256)."""
    seen: dict[str, Any] = dict(license="MIT", image=image, classes=21841 if tag == "in22k" else 1000,
                                reported={} if top1 is None else {"top1": top1},
                                where="" if top1 is None else "README of microsoft/Swin-Transformer")
    at = "https://github.com/SwinTransformer/storage/releases/download/v2.0.0/"
    return (Weights(name=f"ms_{tag}", source=f"hf://timm/swinv2_{size}_{window}.ms_{tag}/model.safetensors",
                    keys="timm", crop=0.9 if image < 384 else 1.0, **seen),
            Weights(name=f"official_{tag}", keys="official", inside="model", crop=0.875 if image < 384 else 1.0,
                    source=f"{at}swinv2_{size}_patch4_{window}{file}.pth", **seen))


_T: dict[str, Any] = dict(dim=96, heads=(3, 6, 12, 24), depths=(2, 2, 6, 2))
_S: dict[str, Any] = dict(dim=96, heads=(3, 6, 12, 24), depths=(2, 2, 18, 2))
_B: dict[str, Any] = dict(dim=128, heads=(4, 8, 16, 32), depths=(2, 2, 18, 2))
_L: dict[str, Any] = dict(dim=192, heads=(6, 12, 24, 48), depths=(2, 2, 18, 2))


def _size(params: int, gflops: float, size: str, window: int, top1: float, **args: Any) -> Variant[SwinV2]:
    """Trained on ImageNet-1k at 256 pixels, whose last map is no larger than a window of 8."""
    return variant(SwinV2, Figures(params=params, gflops=gflops, image=256),
                   *_released(size, f"window{window}_256", 256, "in1k", top1, ""),
                   window=(window, window, window, 8), **args)


def _tuned(params: int, gflops: float, size: str, window: int, top1: float, **args: Any) -> Variant[SwinV2]:
    """Trained on ImageNet-22k at 192 pixels with windows of 12, and of 6 on the last map; tuned with larger ones."""
    image = 16 * window
    return variant(SwinV2, Figures(params=params, gflops=gflops, image=image),
                   *_released(size, f"window12to{window}_192to{image}", image, "in22k_ft_in1k", top1, "_22kto1k_ft"),
                   window=(window, window, window, window // 2), first_window=(12, 12, 12, 6), **args)


def _first(params: int, gflops: float, size: str, **args: Any) -> Variant[SwinV2]:
    """What the tuned ones began with."""
    return variant(SwinV2, Figures(params=params, gflops=gflops, image=192),
                   *_released(size, "window12_192", 192, "in22k", None, "_22k"), window=(12, 12, 12, 6), **args)


swin_v2_t = _size(28_347_154, 5.940, "tiny", 8, 81.8, **_T)
swin_v2_t_w16 = _size(28_347_154, 6.661, "tiny", 16, 82.8, **_T)
swin_v2_s = _size(49_728_418, 11.546, "small", 8, 83.7, **_S)
swin_v2_s_w16 = _size(49_728_418, 12.783, "small", 16, 84.1, **_S)
swin_v2_b = _size(87_918_816, 20.325, "base", 8, 84.2, **_B)
swin_v2_b_w16 = _size(87_918_816, 21.969, "base", 16, 84.6, **_B)
swin_v2_b_192 = _first(87_918_816, 11.856, "base", **_B)
swin_v2_b_w12to16 = _tuned(87_918_816, 21.969, "base", 16, 86.2, **_B)
swin_v2_b_w12to24 = _tuned(87_918_816, 55.148, "base", 24, 87.1, **_B)
swin_v2_l_192 = _first(196_739_932, 26.102, "large", **_L)
swin_v2_l_w12to16 = _tuned(196_739_932, 47.740, "large", 16, 86.9, **_L)
swin_v2_l_w12to24 = _tuned(196_739_932, 115.991, "large", 24, 87.6, **_L)

_BLOCK = "backbone.stages.{}.blocks.{}."
BLOCKS = {
    "patch_embed.*":                                "backbone.stages.0.down.*",
    "layers.{}.blocks.{}.norm1.*":                  _BLOCK + "mix.fn.norm.*",
    "layers.{}.blocks.{}.attn.qkv.*":               _BLOCK + "mix.fn.fn.qkv.proj.*",
    "layers.{}.blocks.{}.attn.q_bias":              _BLOCK + "mix.fn.fn.q_bias",
    "layers.{}.blocks.{}.attn.v_bias":              _BLOCK + "mix.fn.fn.v_bias",
    "layers.{}.blocks.{}.attn.logit_scale":         _BLOCK + "mix.fn.fn.log_scale",
    "layers.{}.blocks.{}.attn.cpb_mlp.0.*":         _BLOCK + "mix.fn.fn.bias.fc1.*",
    "layers.{}.blocks.{}.attn.cpb_mlp.2.*":         _BLOCK + "mix.fn.fn.bias.fc2.*",
    "layers.{}.blocks.{}.attn.proj.*":              _BLOCK + "mix.fn.fn.out.proj.*",
    "layers.{}.blocks.{}.norm2.*":                  _BLOCK + "mlp.fn.norm.*",
    "layers.{}.blocks.{}.mlp.*":                    _BLOCK + "mlp.fn.fn.*",
    "norm.*":                                       "backbone.norm.*",
}
DROP = ("layers.{}.blocks.{}.attn_mask", "layers.{}.blocks.{}.attn.relative_position_index",
        "layers.{}.blocks.{}.attn.relative_coords_table")
TIMM = Keys({
    **BLOCKS,
    "layers.{}.downsample.norm.*":                  "backbone.stages.{}.down.norm.*",
    "layers.{}.downsample.reduction.*":             "backbone.stages.{}.down.reduce.*",
    "head.fc.*":                                    "head.linear.*",
}, drop=DROP)


def official(settings: Mapping[str, Any]) -> Keys:
    """The authors' names."""
    return Keys({**BLOCKS, **merging(len(settings["depths"])), "head.*": "head.linear.*"}, drop=DROP)


KEYS = {"timm": lambda settings: TIMM, "official": official}
