"""T2T-ViT: tokens are made of overlapping neighbourhoods of tokens, three times, and a deep, narrow ViT reads them.

Yuan et al., ICCV 2021, arXiv:2101.11986.
"""
import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.attention.performer import attend_features, exponent
from vitrail.backbones.vit import BLOCKS
from vitrail.core.card import Figures, Idea, Paper, Variant, Weights, variant
from vitrail.core.keys import Keys
from vitrail.nn import (Attend, Chain, Elsewhere, Features, Head, Mlp, Prefix, Residual, SelfAttention, Stack,
                        class_token, drop_path_rates, fit_table, from_tokens, grid_of, init, pad_image,
                        transformer_block)
from vitrail.ops.positions import resample_positions
from vitrail.positions.sinusoidal import sinusoids

PAPER = Paper(title="Tokens-to-Token ViT: Training Vision Transformers from Scratch on ImageNet", arxiv="2101.11986",
              authors="Yuan et al.", year=2021, venue="ICCV", code="yitu-opensource/T2T-ViT",
              license="BSD-3-Clause-Clear",
              builds_on=("attention.performer", "backbones.vit", "positions.sinusoidal"),
              ideas=(Idea("backbones.vit", "section 3", "the network whose tokens it makes otherwise"),
                     Idea("attention.performer", "section 3", "cheap attention over the many early tokens"),
                     Idea("positions.sinusoidal", "section 3", "fixed positions"),
                     Idea("wide_resnet", "section 3.2", "narrow and deep against wide and shallow"),
                     Idea("resnext", "section 3.2", "more and smaller parts, here heads")))
STRIDE = 16             # of the three soft splits together
README = "README of yitu-opensource/T2T-ViT"


class SoftSplit(nn.Module):
    """Each token beside its neighbours in one: (B, H, W, C) -> (B, ⌈H/stride⌉, ⌈W/stride⌉, C·size²) (equation 3).

    Neighbourhoods overlap by size - stride and are padded with zeros, size // 2 wide (2 for a size of 7).
    """

    def __init__(self, size: int, stride: int, padding: int):
        super().__init__()
        self.size, self.stride, self.padding = size, stride, padding

    def forward(self, x: Tensor) -> Tensor:                                     # (B, H, W, C)
        h, w = ((side + 2 * self.padding - self.size) // self.stride + 1 for side in x.shape[1:3])
        x = F.unfold(x.permute(0, 3, 1, 2), self.size, padding=self.padding, stride=self.stride)    # (B, K, N)
        return x.mT.unflatten(1, (h, w))


class TokenPerformer(nn.Module):
    """One head of Performer attention that changes the width: (B, H, W, dim) -> (B, H, W, out).

    The values, not the input, are added to what was found. Unlike Choromanski's, the features have no scale and no
    largest exponent taken off, and the out // 2 directions are drawn once and released with the weights.
    """

    directions: Tensor

    def __init__(self, dim: int, out: int, *, dropout: float = 0.1):
        super().__init__()
        self.groups = Elsewhere("sums over all tokens")
        self.kqv, self.out, self.dropout = nn.Linear(dim, 3 * out), nn.Linear(out, out), nn.Dropout(dropout)
        rows = nn.init.orthogonal_(torch.empty(out // 2, out))
        self.register_buffer("directions", rows * math.sqrt(out // 2))

    def forward(self, x: Tensor) -> Tensor:                                     # (B, H, W, C)
        k, q, v = self.kqv(x).flatten(1, 2).chunk(3, -1)                        # (B, N, D)
        # features are divided by √M there, and 1e-8 is added to the divisor; so it is M times that here. As 1e-8 it
        # would be lost on the way to ONNX, whose optimiser takes it for zero
        eps = 1e-8 * len(self.directions)
        y = attend_features(self.features(q), self.features(k), v, eps=eps)     # (B, N, D)
        return (v + self.dropout(self.out(y.to(v.dtype)))).unflatten(1, x.shape[1:3])

    def features(self, x: Tensor) -> Tensor:
        """exp(ω·x - |x|²/2), which is √M times equation 5's: (B, N, D) -> (B, N, M)."""
        along, half = exponent(x, self.directions)
        return (along - half).exp()


class TokenAttention(nn.Module):
    """One head of self-attention that changes the width: (B, H, W, dim) -> (B, H, W, out).

    The values, not the input, are added to what was found. The published code scales by the width of the input.
    """

    def __init__(self, dim: int, out: int):
        super().__init__()
        self.scale = dim ** -0.5
        self.qkv, self.attend, self.out = nn.Linear(dim, 3 * out, bias=False), Attend(), nn.Linear(out, out)

    def forward(self, x: Tensor) -> Tensor:                                     # (B, H, W, C)
        q, k, v = self.qkv(x).flatten(1, 2)[:, None].chunk(3, -1)               # (B, 1, N, D)
        return (v + self.out(self.attend(q, k, v, scale=self.scale)))[:, 0].unflatten(1, x.shape[1:3])


class TokensToToken(nn.Module):
    """Three soft splits with a layer of attention between them (figure 2): image -> (B, ⌈H/16⌉, ⌈W/16⌉, dim).

    inner: the width of the tokens between. performer: whether they attend by random features, or by all weights.
    A size that 4 does not divide is padded with zeros below and to the right; the later splits need none.
    """

    def __init__(self, dim: int, inner: int, performer: bool, *, in_chans: int = 3):
        super().__init__()

        def layer(width: int) -> Chain:
            mix = TokenPerformer(width, inner) if performer else TokenAttention(width, inner)
            drop = nn.Dropout(0.1 if performer else 0.0)
            return Chain(norm=nn.LayerNorm(width), mix=mix,
                         mlp=Residual(Mlp(inner, inner), nn.LayerNorm(inner), drop=drop))
        self.split1, self.layer1 = SoftSplit(7, 4, 2), layer(in_chans * 49)
        self.split2, self.layer2 = SoftSplit(3, 2, 1), layer(inner * 9)
        self.split3, self.proj = SoftSplit(3, 2, 1), nn.Linear(inner * 9, dim)

    def forward(self, image: Tensor) -> Tensor:
        x = self.layer1(self.split1(pad_image(image, 4).permute(0, 2, 3, 1)))   # (B, H, W, D)
        return self.proj(self.split3(self.layer2(self.split2(x))))


class FixedPositions(nn.Module):
    """Sines and cosines of a token's place in the sequence, the class token's first, added: (B, 1 + h·w, C) -> same.

    The released weights hold the table, so it is a buffer. On another grid than its own it is resampled as a map, as
    the authors do to transfer weights; a model born for another grid counts its places anew.
    """

    table: Tensor

    def __init__(self, grid: tuple[int, int], dim: int):
        super().__init__()
        self.grid = grid
        self.register_buffer("table", sinusoids(1 + grid[0] * grid[1], dim).float()[None])

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        return x + resample_positions(self.table, grid, old=self.grid, prefix=1)

    def fit(self, table: Tensor) -> Tensor:
        """A table of another (square) grid, resampled for this one. Raises CheckpointError where it is none."""
        return fit_table(table, self.grid, self.table.shape[2], prefix=1)


class Embedding(nn.Module):
    """What all bodies begin with: image -> the class token and the tokens with their positions, (B, 1 + N, C)."""

    def __init__(self, image: int | tuple[int, int], dim: int, inner: int, *, in_chans: int = 3,
                 performer: bool = True):
        super().__init__()
        self.patch_embed, self.prefix = TokensToToken(dim, inner, performer, in_chans=in_chans), Prefix(1, dim)
        self.position = FixedPositions(grid_of(image, STRIDE), dim)
        nn.init.trunc_normal_(self.prefix.tokens, std=0.02)

    def forward(self, image: Tensor) -> tuple[Tensor, tuple[int, int]]:
        x = self.patch_embed(image)                                                # (B, h, w, C)
        grid = x.shape[1:3]
        return self.position(self.prefix(x.flatten(1, 2)), grid), grid


def make_head(dim: int, classes: int) -> Head:
    """A linear layer on the class token, born as all of them."""
    return Head(dim, classes, class_token, init_weights=init.truncated_linears)


class T2TViT(nn.Module):
    """Tokens to token, a class token, and `depth` pre-norm blocks, deep and narrow (section 3.2, table 1).

    image (B, 3, H, W) -> one map (B, ⌈H/16⌉, ⌈W/16⌉, dim) and the class token. inner, performer: of `TokensToToken`.
    """

    def __init__(self, *, image: int | tuple[int, int] = 224, dim: int = 384, depth: int = 14, heads: int = 6,
                 mlp_ratio: float = 3.0, inner: int = 64, performer: bool = True, in_chans: int = 3,
                 drop_path: float = 0.0):
        super().__init__()
        self.channels, self.strides = (dim,), (STRIDE,)
        self.embed = Embedding(image, dim, inner, in_chans=in_chans, performer=performer)
        # the authors' constructors scale by the whole width where they are told to fetch weights, which they cannot;
        # weights are trained and judged with the scale of a head
        self.blocks = Stack(transformer_block(SelfAttention(dim, heads, qkv_bias=False), dim, mlp_ratio, p,
                                              norm=nn.LayerNorm) for p in drop_path_rates(drop_path, depth))
        self.norm = nn.LayerNorm(dim)
        init.truncated_linears(self)

    def forward(self, image: Tensor) -> Features:
        x, grid = self.embed(image)                                             # (B, N, C)
        return from_tokens(self.norm(self.blocks(x)), grid, prefix=1)

    def make_head(self, classes: int) -> nn.Module:
        return make_head(self.channels[-1], classes)


def _size(params: int, gflops: float, said: tuple[float, ...], *weights: Weights, image: int = 224,
          **args: Any) -> Variant[T2TViT]:
    """said: what the README says of parameters, in millions, and of multiply-adds, in 1e9. Its parameters count the
    fixed positions and directions."""
    figures = Figures(params=params, gflops=gflops, image=image, where=README if said else "",
                      reported=dict(zip(("params_m", "gflops"), said, strict=False)))
    return variant(T2TViT, figures, *weights, image=image, **args)


def _released(file: str, top1: float, *, image: int = 224) -> Weights:
    """The averaged weights, by which the README's scores were measured."""
    return Weights(name="in1k", keys="official", inside="state_dict_ema", license=PAPER.license, image=image, crop=0.9,
                   source=f"https://github.com/{PAPER.code}/releases/download/main/{top1}_T2T_{file}.pth.tar",
                   reported={"top1": top1}, where=README)


_LITE: dict[str, Any] = dict(dim=256, heads=4, mlp_ratio=2.0)
_19: dict[str, Any] = dict(dim=448, depth=19, heads=7)
_24: dict[str, Any] = dict(dim=512, depth=24, heads=8)

t2t_vit_7 = _size(4_255_694, 1.147, (4.3, 1.1), _released("ViT_7", 71.7), depth=7, **_LITE)
t2t_vit_10 = _size(5_834_702, 1.516, (5.9, 1.5), _released("ViT_10", 75.2), depth=10, **_LITE)
t2t_vit_12 = _size(6_887_374, 1.763, (6.9, 1.8), _released("ViT_12", 76.5), depth=12, **_LITE)
t2t_vit_14 = _size(21_465_806, 4.783, (21.5, 4.8), _released("ViT_14", 81.5))
t2t_vit_14_384 = _size(21_465_806, 16.370, (21.7,), _released("ViT_14", 83.3, image=384), image=384)
t2t_vit_19 = _size(39_085_070, 8.480, (39.2, 8.5), _released("ViT_19", 81.9), **_19)
t2t_vit_24 = _size(64_000_974, 13.662, (64.1, 13.8), _released("ViT_24", 82.3), **_24)
t2t_vit_t_14 = _size(21_465_422, 6.089, (21.5, 6.1), _released("ViTt_14", 81.7), performer=False)
t2t_vit_t_19 = _size(39_084_686, 9.785, (39.2, 9.8), _released("ViTt_19", 82.4), performer=False, **_19)
t2t_vit_t_24 = _size(64_000_590, 14.967, (64.1, 15.0), _released("ViTt_24", 82.6), performer=False, **_24)
# two of the designs of convolutional networks that section 3.2 compares; the others are in `t2t_vit_bodies`
t2t_vit_14_wide = _size(25_000_910, 5.229, (), dim=768, depth=4, heads=12)
t2t_vit_14_resnext = _size(21_465_806, 4.783, (), heads=32)


def embedding(performer: bool) -> dict[str, str]:
    """The names that the authors give to the parts of `Embedding`."""
    table = {"cls_token": "backbone.embed.prefix.tokens", "pos_embed": "backbone.embed.position.table",
             "tokens_to_token.project.*": "backbone.embed.patch_embed.proj.*"}
    parts = {"norm1.*": "norm.*", "norm2.*": "mlp.norm.*"}
    if performer:
        parts |= {"w": "mix.directions", "kqv.*": "mix.kqv.*", "proj.*": "mix.out.*",
                  "mlp.0.*": "mlp.fn.fc1.*", "mlp.2.*": "mlp.fn.fc2.*"}
    else:
        parts |= {"attn.qkv.*": "mix.qkv.*", "attn.proj.*": "mix.out.*", "mlp.*": "mlp.fn.*"}
    return table | {f"tokens_to_token.attention{i}.{theirs}": f"backbone.embed.patch_embed.layer{i}.{ours}"
                    for i in (1, 2) for theirs, ours in parts.items()}


def official(settings: Mapping[str, Any]) -> Keys:
    return Keys({**embedding(settings["performer"]), **BLOCKS, "head.*": "head.linear.*"})


KEYS = {"official": official}
