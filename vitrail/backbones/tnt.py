"""TNT: inside each patch, a smaller transformer reads its pixels and tells the patch.

Han et al., NeurIPS 2021, arXiv:2103.00112.
"""
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from vitrail.core.card import HALF_MEAN, HALF_STD, Figures, Idea, Paper, Variant, Weights, variant
from vitrail.core.keys import Fold, Keys, Row
from vitrail.nn import (Attend, Block, DropPath, Features, Head, Merge, Mlp, PositionTable, Prefix, Residual,
                        SelfAttention, Split, Stack, Within, class_token, drop_path_rates, from_tokens, grid_of, init,
                        pad_image, transformer_block)

PAPER = Paper(title="Transformer in Transformer", arxiv="2103.00112", authors="Han et al.", year=2021, venue="NeurIPS",
              code="huawei-noah/Efficient-AI-Backbones", license="Apache-2.0",
              ideas=(Idea("foundations.transformer", "section 2.1", "the block"),
                     Idea("backbones.vit", "section 2.2", "patches as tokens"),
                     Idea("backbones.deit", "experiments", "the training")))

LayerNorm = nn.LayerNorm        # with PyTorch's own epsilon of 1e-5


class Pixels(nn.Module):
    """An image (B, C, H, W) as patches of n small "pixels" of c channels each: (B, ⌈H/p⌉, ⌈W/p⌉, n, c).

    The patches are cut first and convolved alone, each with its own border of zeros (as released).
    """

    def __init__(self, patch: int, inner: int, stride: int, *, in_chans: int = 3):
        super().__init__()
        self.patch, self.proj = patch, nn.Conv2d(in_chans, inner, 7, stride, 3)

    def forward(self, image: Tensor) -> Tensor:
        p = self.patch
        x = pad_image(image, p).unflatten(3, (-1, p)).unflatten(2, (-1, p))     # (B, C, h, p, w, p)
        x = x.permute(0, 2, 4, 1, 3, 5)                                         # (B, h, w, C, p, p)
        return self.proj(x.flatten(0, 2)).flatten(2).mT.unflatten(0, x.shape[:3])


class PixelAttention(nn.Module):
    """Self-attention among the pixels of a patch, in all patches at once: (B, N, n, c) -> same."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.groups = Within()
        self.qkv, self.attend, self.out = Split(dim, heads, 3, bias=False), Attend(), Merge(dim)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x)                   # (B, N, H, n, D)
        return self.out(self.attend(q, k, v))   # (B, N, n, c)


class PatchDrop(nn.Module):
    """Stochastic depth patch by patch, not image by image, as the released code trains the inner transformer."""

    def __init__(self, p: float):
        super().__init__()
        self.drop = DropPath(p)

    def forward(self, x: Tensor) -> Tensor:     # (B, N, n, c)
        return self.drop(x.flatten(0, 1)).view_as(x)


class PixelsToPatch(nn.Module):
    """All pixels of a patch side by side, as one token: (B, N, n, c) -> (B, N, C)."""

    def __init__(self, pixels: int, dim: int, *, bias: bool):
        super().__init__()
        self.norm1, self.proj, self.norm2 = LayerNorm(pixels), nn.Linear(pixels, dim, bias=bias), LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm2(self.proj(self.norm1(x.flatten(2))))


class TNTBlock(nn.Module):
    """Two streams: the pixels attend within their patch, are added to its token, and the tokens attend to each other.

    (pixels (B, N, n, c), patches (B, 1 + N, C)) -> same. The class token stands first and has no pixels.
    """

    def __init__(self, pixels: int, inner: int, inner_heads: int, dim: int, heads: int, mlp_ratio: float, drop: float):
        super().__init__()
        self.inner = Block(
            mix=Residual(PixelAttention(inner, inner_heads), LayerNorm(inner), drop=PatchDrop(drop)),
            mlp=Residual(Mlp(inner, int(inner * mlp_ratio)), LayerNorm(inner), drop=PatchDrop(drop)))
        self.to_patch = PixelsToPatch(pixels * inner, dim, bias=False)
        self.outer = transformer_block(SelfAttention(dim, heads, qkv_bias=False), dim, mlp_ratio, drop, norm=LayerNorm)

    def forward(self, streams: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        pixels, patches = streams
        pixels = self.inner(pixels)                                                         # (B, N, n, c)
        patches = torch.cat([patches[:, :1], patches[:, 1:] + self.to_patch(pixels)], 1)    # (B, 1 + N, C)
        return pixels, self.outer(patches)


class TNT(nn.Module):
    """Two streams of positions, `depth` blocks over both, and the class token of the outer one.

    image (B, 3, H, W) -> one map (B, ⌈H/p⌉, ⌈W/p⌉, dim) and the class token.
    """

    stem_weights = ("patch_embed.proj.weight",)

    def __init__(self, *, image: int | tuple[int, int] = 224, patch: int = 16, dim: int = 384, depth: int = 12,
                 heads: int = 6, inner: int = 24, inner_heads: int = 4, inner_stride: int = 4, mlp_ratio: float = 4.0,
                 in_chans: int = 3, drop_path: float = 0.0):
        super().__init__()
        self.channels, self.strides = (dim,), (patch,)
        side = -(-patch // inner_stride)
        self.patch_embed = Pixels(patch, inner, inner_stride, in_chans=in_chans)
        self.pixel_position = PositionTable((side, side), inner)
        self.to_patch, self.prefix = PixelsToPatch(side * side * inner, dim, bias=True), Prefix(1, dim)
        self.position = PositionTable(grid_of(image, patch), dim, prefix=1)
        self.blocks = Stack(TNTBlock(side * side, inner, inner_heads, dim, heads, mlp_ratio, p)
                            for p in drop_path_rates(drop_path, depth))
        self.norm = LayerNorm(dim)
        init.truncated(self)

    def forward(self, image: Tensor) -> Features:
        x = self.patch_embed(image)                                                        # (B, h, w, n, c)
        grid = x.shape[1:3]
        pixels = self.pixel_position(x.flatten(1, 2), self.pixel_position.grid)         # (B, N, n, c)
        patches = self.position(self.prefix(self.to_patch(pixels)), grid)               # (B, 1 + N, C)
        _, patches = self.blocks((pixels, patches))
        return from_tokens(self.norm(patches), grid, prefix=1)

    def make_head(self, classes: int) -> nn.Module:
        return Head(self.channels[-1], classes, class_token, init_weights=init.truncated_linears)


def _size(params: int, gflops: float, size: str, top1: float, **args: Any) -> Variant[TNT]:
    seen: dict[str, Any] = dict(license="Apache-2.0", mean=HALF_MEAN, std=HALF_STD, crop=0.9, reported={"top1": top1},
                                where="readme of huawei-noah/Efficient-AI-Backbones, tnt_pytorch")
    timms = f"hf://timm/tnt_{size}_patch16_224.in1k/model.safetensors"
    theirs = f"https://github.com/{PAPER.code}/releases/download/tnt/tnt_{size}_{top1}.pth.tar"
    return variant(TNT, Figures(params=params, gflops=gflops), Weights(name="in1k", source=timms, keys="timm", **seen),
                   Weights(name="official", source=theirs, keys="official", **seen), **args)


tnt_s = _size(23_768_584, 5.217, "s", 81.5, dim=384, heads=6, inner=24)
tnt_b = _size(65_428_680, 14.049, "b", 82.9, dim=640, heads=10, inner=40)


_JOINED = Fold(lambda qk, v: torch.cat([qk, v]), lambda qkv: qkv.tensor_split((len(qkv) * 2 // 3,)))
_OFFICIAL = {
    "patch_embed.proj.*":               "backbone.patch_embed.proj.*",
    "inner_pos":                        "backbone.pixel_position.table",
    "outer_pos":                        "backbone.position.table",
    "cls_token":                        "backbone.prefix.tokens",
    "proj_norm1.*":                     "backbone.to_patch.norm1.*",
    "proj.*":                           "backbone.to_patch.proj.*",
    "proj_norm2.*":                     "backbone.to_patch.norm2.*",
    "blocks.{}.inner_norm1.*":          "backbone.blocks.{}.inner.mix.norm.*",
    "blocks.{}.inner_attn.proj.*":      "backbone.blocks.{}.inner.mix.fn.out.proj.*",
    "blocks.{}.inner_norm2.*":          "backbone.blocks.{}.inner.mlp.norm.*",
    "blocks.{}.inner_mlp.*":            "backbone.blocks.{}.inner.mlp.fn.*",
    "blocks.{}.proj_norm1.*":           "backbone.blocks.{}.to_patch.norm1.*",
    "blocks.{}.proj.*":                 "backbone.blocks.{}.to_patch.proj.*",
    "blocks.{}.proj_norm2.*":           "backbone.blocks.{}.to_patch.norm2.*",
    "blocks.{}.outer_norm1.*":          "backbone.blocks.{}.outer.mix.norm.*",
    "blocks.{}.outer_attn.proj.*":      "backbone.blocks.{}.outer.mix.fn.out.proj.*",
    "blocks.{}.outer_norm2.*":          "backbone.blocks.{}.outer.mlp.norm.*",
    "blocks.{}.outer_mlp.*":            "backbone.blocks.{}.outer.mlp.fn.*",
    "norm.*":                           "backbone.norm.*",
    "head.*":                           "head.linear.*",
}
_ROWS = [Row((f"blocks.{{}}.{part}_attn.qk.weight", f"blocks.{{}}.{part}_attn.v.weight"),
             f"backbone.blocks.{{}}.{part}.mix.fn.qkv.proj.weight", _JOINED) for part in ("inner", "outer")]
_TIMM_SAYS = {"patch_embed": "pixel_embed", "inner_pos": "pixel_pos", "outer_pos": "patch_pos",
              "proj_norm1": "norm1_proj", "proj_norm2": "norm2_proj",
              "inner_norm1": "norm_in", "inner_attn": "attn_in", "inner_norm2": "norm_mlp_in", "inner_mlp": "mlp_in",
              "outer_norm1": "norm_out", "outer_attn": "attn_out", "outer_norm2": "norm_mlp", "outer_mlp": "mlp"}


def _as_timm(key: str) -> str:
    for theirs, timms in _TIMM_SAYS.items():
        key = key.replace(theirs, timms)
    return key


def timm(settings: Mapping[str, Any]) -> Keys:
    """Other names for the same parts; the positions of the pixels are a map (1, c, s, s), and here (1, n, c)."""
    side = -(-settings["patch"] // settings["inner_stride"])
    pixels = Fold(lambda t: t.flatten(2).mT, lambda t: t.mT.unflatten(2, (side, side)))
    return Keys({_as_timm(theirs): ours for theirs, ours in _OFFICIAL.items()},
                rows=[Row(("pixel_pos",), "backbone.pixel_position.table", pixels),
                      *(Row(tuple(map(_as_timm, row.theirs)), row.ours, row.fold) for row in _ROWS)])


# outer_tokens is a tensor of zeros that the authors' code holds and never reads
OFFICIAL = Keys(_OFFICIAL, rows=_ROWS, drop=("outer_tokens",))
KEYS = {"timm": timm, "official": lambda settings: OFFICIAL}
