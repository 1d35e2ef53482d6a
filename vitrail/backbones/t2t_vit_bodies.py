"""T2T-ViT's other bodies: designs of convolutional networks, moved to transformers (section 3.2 of the paper).

Yuan et al., ICCV 2021, arXiv:2101.11986: dense connections, squeeze and excitation, ghost features. Their tokens are
those of `t2t_vit`, which also holds the wide body and the one of many heads (ResNeXt).
"""
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from vitrail.backbones.t2t_vit import PAPER as PLAIN
from vitrail.backbones.t2t_vit import STRIDE, Embedding, embedding, make_head
from vitrail.backbones.vit import BLOCKS
from vitrail.core.card import Figures, Idea, variant
from vitrail.core.errors import ModelError
from vitrail.core.keys import Fold, Keys, Row
from vitrail.nn import (Attend, Block, Chain, DropPath, Features, Gelu, Merge, Residual, Scale, SelfAttention, Stack,
                        from_tokens, init, drop_path_rates, transformer_block)

PAPER = replace(PLAIN, builds_on=("backbones.t2t_vit", "backbones.vit"),
                ideas=(Idea("backbones.t2t_vit", "section 3.2", "the tokens and the plain body"),
                       Idea("densenet", "section 3.2", "each layer sees all before it"),
                       Idea("squeeze_excite", "section 3.2", "gates on the channels"),
                       Idea("backbones.ghostnet", "section 3.2", "half of the features made cheaply")))


class SqueezeExciteTokens(nn.Module):
    """x · sigmoid(W₂ relu(W₁ mean of x)), the mean over all tokens, the class token's too: (B, N, C) -> same."""

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.reduce, self.expand = nn.Linear(dim, hidden, bias=False), nn.Linear(hidden, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.expand(self.reduce(x.mean(1, keepdim=True)).relu()).sigmoid()


class T2TViTSE(nn.Module):
    """A T2T-ViT whose attention is squeezed and excited, to a sixteenth of the channels, before it is added.

    image (B, 3, H, W) -> one map (B, ⌈H/16⌉, ⌈W/16⌉, dim) and the class token.
    """

    def __init__(self, *, image: int | tuple[int, int] = 224, dim: int = 384, depth: int = 14, heads: int = 6,
                 mlp_ratio: float = 3.0, inner: int = 64, in_chans: int = 3, drop_path: float = 0.0):
        super().__init__()
        self.channels, self.strides = (dim,), (STRIDE,)
        self.embed = Embedding(image, dim, inner, in_chans=in_chans)

        def mixer() -> Chain:
            return Chain(attention=SelfAttention(dim, heads, qkv_bias=False),
                         squeeze=SqueezeExciteTokens(dim, dim // 16))
        self.blocks = Stack(transformer_block(mixer(), dim, mlp_ratio, p, norm=nn.LayerNorm)
                            for p in drop_path_rates(drop_path, depth))
        self.norm = nn.LayerNorm(dim)
        init.truncated_linears(self)

    def forward(self, image: Tensor) -> Features:
        x, grid = self.embed(image)                                             # (B, N, C)
        return from_tokens(self.norm(self.blocks(x)), grid, prefix=1)

    def make_head(self, classes: int) -> nn.Module:
        return make_head(self.channels[-1], classes)


class GhostLinear(nn.Module):
    """A linear layer to half of the channels; the other half is the first one, each channel times its gain."""

    def __init__(self, dim: int):
        super().__init__()
        self.linear, self.gain = nn.Linear(dim, dim // 2, bias=False), Scale(dim // 2, 1.0)

    def forward(self, x: Tensor) -> Tensor:
        x = self.linear(x)
        return torch.cat([x, self.gain(x)], -1)


class GhostAttention(nn.Module):
    """Self-attention whose queries, keys and values are half ghosts: the later half of the heads. (B, N, C) -> same."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        if dim % 2 or dim % heads:
            raise ValueError(f"a width of {dim} is not divided by 2 and by {heads} heads")
        self.heads = heads
        self.q, self.k, self.v = GhostLinear(dim), GhostLinear(dim), GhostLinear(dim)
        self.attend, self.out = Attend(), Merge(dim)

    def forward(self, x: Tensor) -> Tensor:                                     # (B, N, C)
        q, k, v = (part(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.q, self.k, self.v))
        return self.out(self.attend(q, k, v))                                   # (B, N, C)


class GhostMlp(nn.Module):
    """An Mlp of three times the width, two thirds of it ghosts of the first, gelu(gain · x): (B, N, C) -> same."""

    def __init__(self, dim: int):
        super().__init__()
        self.fc1, self.gain2, self.gain3 = nn.Linear(dim, dim), Scale(dim, 1.0), Scale(dim, 1.0)
        self.act, self.fc2 = Gelu(), nn.Linear(3 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.fc1(x))
        return self.fc2(torch.cat([x, self.act(self.gain2(x)), self.act(self.gain3(x))], -1))


class T2TViTGhost(nn.Module):
    """A T2T-ViT of ghost attention and ghost Mlps.

    image (B, 3, H, W) -> one map (B, ⌈H/16⌉, ⌈W/16⌉, dim) and the class token.
    """

    def __init__(self, *, image: int | tuple[int, int] = 224, dim: int = 384, depth: int = 16, heads: int = 6,
                 inner: int = 64, in_chans: int = 3, drop_path: float = 0.0):
        super().__init__()
        self.channels, self.strides = (dim,), (STRIDE,)
        self.embed = Embedding(image, dim, inner, in_chans=in_chans)
        self.blocks = Stack(Block(mix=Residual(GhostAttention(dim, heads), nn.LayerNorm(dim), drop=DropPath(p)),
                                  mlp=Residual(GhostMlp(dim), nn.LayerNorm(dim), drop=DropPath(p)))
                            for p in drop_path_rates(drop_path, depth))
        self.norm = nn.LayerNorm(dim)
        init.truncated_linears(self)
        for part in self.modules():
            if isinstance(part, Scale):             # the authors' are depthwise convolutions, left as torch makes them
                nn.init.uniform_(part.gamma, -1, 1)

    def forward(self, image: Tensor) -> Features:
        x, grid = self.embed(image)                                             # (B, N, C)
        return from_tokens(self.norm(self.blocks(x)), grid, prefix=1)

    def make_head(self, classes: int) -> nn.Module:
        return make_head(self.channels[-1], classes)


class DenseBlock(nn.Module):
    """A transformer block whose outcome, brought to `growth` channels, joins its input: (B, N, C) -> (B, N, C + G)."""

    def __init__(self, dim: int, heads: int, mlp_ratio: float, growth: int, drop: float):
        super().__init__()
        self.block = transformer_block(SelfAttention(dim, heads, qkv_bias=False), dim, mlp_ratio, drop,
                                       norm=nn.LayerNorm)
        self.grow = nn.Linear(dim, growth)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.grow(self.block(x))], -1)


# the published code has one rate of stochastic depth a group, and takes the first ones of a ramp over twelve
GROUPS = 12


class T2TViTDense(nn.Module):
    """A T2T-ViT of densely connected blocks in groups of `depths`, between which the channels are halved.

    image (B, 3, H, W) -> one map (B, ⌈H/16⌉, ⌈W/16⌉, C) and the class token; C follows from `dim` and `growth`.
    """

    def __init__(self, *, image: int | tuple[int, int] = 224, dim: int = 128, depths: tuple[int, ...] = (3, 6, 6, 4),
                 heads: int = 8, mlp_ratio: float = 2.0, growth: int = 64, inner: int = 64, in_chans: int = 3,
                 drop_path: float = 0.0):
        super().__init__()
        if not 1 <= len(depths) <= GROUPS or min(depths) < 1:
            raise ModelError(f"depths={depths}: one to {GROUPS} groups of at least one block")
        self.embed = Embedding(image, dim, inner, in_chans=in_chans)
        parts: list[nn.Module] = []
        for i, (depth, drop) in enumerate(zip(depths, drop_path_rates(drop_path, GROUPS), strict=False)):
            if i:
                parts.append(Chain(linear=nn.Linear(dim, dim // 2), act=Gelu()))
                dim //= 2
            for _ in range(depth):
                parts.append(DenseBlock(dim, heads, mlp_ratio, growth, drop))
                dim += growth
        self.blocks, self.norm = Stack(parts), nn.LayerNorm(dim)
        self.channels, self.strides = (dim,), (STRIDE,)
        init.truncated_linears(self)

    def forward(self, image: Tensor) -> Features:
        x, grid = self.embed(image)                                             # (B, N, C)
        return from_tokens(self.norm(self.blocks(x)), grid, prefix=1)

    def make_head(self, classes: int) -> nn.Module:
        return make_head(self.channels[-1], classes)


t2t_vit_14_se = variant(T2TViTSE, Figures(params=21_723_854, gflops=4.784))
t2t_vit_16_ghost = variant(T2TViTGhost, Figures(params=16_173_518, gflops=3.797))
t2t_vit_dense = variant(T2TViTDense, Figures(params=23_617_750, gflops=5.276))


_GAIN = Fold(lambda t: t[:, 0, 0], lambda t: t[:, None, None])          # a depthwise convolution of one tap
_SE = {"blocks.{}.attn.qkv.*":             "backbone.blocks.{}.mix.fn.attention.qkv.proj.*",
       "blocks.{}.attn.proj.*":            "backbone.blocks.{}.mix.fn.attention.out.proj.*",
       "blocks.{}.attn.se_layer.fc.0.*":   "backbone.blocks.{}.mix.fn.squeeze.reduce.*",
       "blocks.{}.attn.se_layer.fc.2.*":   "backbone.blocks.{}.mix.fn.squeeze.expand.*"}
_DENSE = {"blocks.{}.linear.*":            "backbone.blocks.{}.linear.*",
          "blocks.{}.dense_linear.*":      "backbone.blocks.{}.grow.*",
          **{theirs: ours.replace("blocks.{}.", "blocks.{}.block.") for theirs, ours in BLOCKS.items()}}
_GHOST = {f"blocks.{{}}.attn.{p}.*":       f"backbone.blocks.{{}}.mix.fn.{p}.linear.*" for p in "qkv"}
_GHOST_ROWS = [
    *(Row((f"blocks.{{}}.attn.cheap_operation_{p}.weight",), f"backbone.blocks.{{}}.mix.fn.{p}.gain.gamma", _GAIN)
      for p in "qkv"),
    *(Row((f"blocks.{{}}.mlp.cheap_operation{i}.weight",), f"backbone.blocks.{{}}.mlp.fn.gain{i}.gamma", _GAIN)
      for i in (2, 3))]


def official(settings: Mapping[str, Any]) -> Keys:
    """The table of the body whose settings these are."""
    rows: list[Row] = []
    if "growth" in settings:
        own = _DENSE
    elif "mlp_ratio" in settings:
        own = {**BLOCKS, **_SE}
    else:
        own, rows = {**BLOCKS, **_GHOST}, _GHOST_ROWS
    return Keys({**embedding(performer=True), **own, "head.*": "head.linear.*"}, rows=rows)


KEYS = {"official": official}
