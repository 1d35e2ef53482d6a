"""CaiT: patches learn of each other first, and only then a class token asks them; small gains let it be deep.

Touvron et al., ICCV 2021, arXiv:2103.17239.
"""
from typing import Any

import torch
from torch import Tensor, nn

from vitrail.attention.talking_heads import HeadMix, TalkingHeads
from vitrail.core.card import Figures, Idea, Paper, Variant, Weights, variant
from vitrail.core.keys import Fold, Keys, Row
from vitrail.nn import (Attend, Block, DropPath, Features, LayerNorm, Merge, Mlp, PatchEmbed, PositionTable, Prefix,
                        Head, Residual, Scale, Split, Stack, class_token, from_tokens, grid_of, init)
from vitrail.nn.names import block_names

PAPER = Paper(title="Going deeper with Image Transformers", arxiv="2103.17239", authors="Touvron et al.", year=2021,
              venue="ICCV", code="facebookresearch/deit", license="Apache-2.0",
              builds_on=("attention.talking_heads",),
              ideas=(Idea("backbones.vit", "section 2", "the patches and the blocks"),
                     Idea("backbones.deit", "experiments", "the training and the distillation"),
                     Idea("foundations.transformer", "introduction", "an encoder, and a decoder that asks it"),
                     Idea("fixup", "figure 1", "a learned factor on each residual branch"),
                     Idea("rezero", "figure 1", "a factor that starts at or near zero"),
                     Idea("attention.talking_heads", "experiments", "heads that mix")))


class ClassAttention(nn.Module):
    """Only the class token asks, itself and all patches (equations 5 to 7): (B, 1 + N, C) -> (B, 1, C)."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.qkv, self.attend, self.out = Split(dim, heads, 3), Attend(), Merge(dim)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x)                                           # (B, H, M, D)
        return self.out(self.attend(q[..., :1, :], k, v))


class ClassResidual(nn.Module):
    """The class token (B, 1, C) learns of patches (B, N, C), which stay as they are (section 3, figure 2)."""

    def __init__(self, dim: int, heads: int, scale: float):
        super().__init__()
        self.norm, self.fn, self.scale = LayerNorm(dim), ClassAttention(dim, heads), Scale(dim, scale)

    def forward(self, x: Tensor, patches: Tensor) -> Tensor:
        return x + self.scale(self.fn(self.norm(torch.cat([x, patches], 1))))


class CaiT(nn.Module):
    """`depth` layers of talking heads on the patches alone, then `class_depth` layers in which the class token asks.

    Every branch has a gain a channel, born `scale`; each of the first layers is skipped with one probability, without
    a ramp. image (B, 3, H, W) -> one map (B, ⌈H/p⌉, ⌈W/p⌉, dim) and the class token.
    """

    stem_weights = ("patch_embed.proj.weight",)

    def __init__(self, *, image: int | tuple[int, int] = 224, patch: int = 16, dim: int = 384, depth: int = 24,
                 heads: int = 8, mlp_ratio: float = 4.0, class_depth: int = 2, scale: float = 1e-5, in_chans: int = 3,
                 drop_path: float = 0.0):
        super().__init__()
        self.channels, self.strides = (dim,), (patch,)
        self.patch_embed, self.prefix = PatchEmbed(patch, dim, in_chans=in_chans), Prefix(1, dim)
        self.position = PositionTable(grid_of(image, patch), dim)

        def residual(fn: nn.Module, drop: float) -> Residual:
            return Residual(fn, LayerNorm(dim), scale=Scale(dim, scale), drop=DropPath(drop))

        def mlp(drop: float) -> Residual:
            return residual(Mlp(dim, int(dim * mlp_ratio)), drop)

        self.blocks = Stack(Block(residual(TalkingHeads(dim, heads, head_bias=True), drop_path), mlp(drop_path))
                            for _ in range(depth))
        self.class_blocks = Stack(Block(ClassResidual(dim, heads, scale), mlp(0.0)) for _ in range(class_depth))
        self.norm = LayerNorm(dim)
        init.truncated(self)
        for part in self.modules():
            if isinstance(part, HeadMix):               # a linear layer like the others, in the official code
                nn.init.trunc_normal_(part.weight, std=0.02)

    def forward(self, image: Tensor) -> Features:
        x = self.patch_embed(image)                                        # (B, h, w, C)
        grid = x.shape[1:3]
        x = self.blocks(self.position(x.flatten(1, 2), grid))           # (B, N, C)
        ask = self.class_blocks(self.prefix(x[:, :0]), x)               # (B, 1, C)
        return from_tokens(self.norm(torch.cat([ask, x], 1)), grid, prefix=1)

    def make_head(self, classes: int) -> nn.Module:
        return Head(self.channels[-1], classes, class_token, init_weights=init.truncated_linears)


def _size(params: int, gflops: float, name: str, image: int, top1: float | None = None,
          reported: tuple[float, float] | None = None, **args: Any) -> Variant[CaiT]:
    """A size with its one release at two addresses; top-1 and figures as the authors' README says, where it does."""
    readme = "README_cait.md of facebookresearch/deit"
    seen: dict[str, Any] = dict(image=image, crop=1.0, license="Apache-2.0",
                                reported={} if top1 is None else {"top1": top1}, where="" if top1 is None else readme)
    figures = Figures(params=params, gflops=gflops, image=image, where="" if reported is None else readme,
                      reported={} if reported is None else dict(zip(("params_m", "gflops"), reported, strict=True)))
    return variant(CaiT, figures,
                   Weights(name="fb_dist_in1k", source=f"hf://timm/cait_{name.lower()}_{image}.fb_dist_in1k/"
                           "model.safetensors", keys="timm", **seen),
                   Weights(name="official", source=f"https://dl.fbaipublicfiles.com/deit/{name}_{image}.pth",
                           keys="official", inside="model", **seen),
                   image=image, **args)


_XXS: dict[str, Any] = dict(dim=192, heads=4)
_XS: dict[str, Any] = dict(dim=288, heads=6)
_S: dict[str, Any] = dict(dim=384, heads=8)
_M: dict[str, Any] = dict(dim=768, heads=16, scale=1e-6)

cait_xxs24_224 = _size(11_956_168, 2.538, "XXS24", 224, **_XXS)
cait_xxs24_384 = _size(12_029_128, 9.642, "XXS24", 384, **_XXS)
cait_xxs36_224 = _size(17_299_576, 3.770, "XXS36", 224, depth=36, **_XXS)
cait_xxs36_384 = _size(17_372_536, 14.355, "XXS36", 384, depth=36, **_XXS)
cait_xs24_384 = _size(26_669_944, 19.336, "XS24", 384, 84.1, (27, 19.3), **_XS)
cait_s24_224 = _size(46_916_008, 9.385, "S24", 224, 83.5, (47, 9.4), **_S)
cait_s24_384 = _size(47_061_928, 32.280, "S24", 384, 85.1, (47, 32.2), **_S)
cait_s36_384 = _size(68_366_344, 48.078, "S36", 384, 85.4, (68, 48.0), depth=36, scale=1e-6, **_S)
cait_m36_384 = _size(271_220_776, 173.623, "M36", 384, 86.1, (271, 173.3), depth=36, **_M)
cait_m48_448 = _size(356_459_752, 330.033, "M48", 448, 86.5, (356, 329.6), depth=48, **_M)

_BLOCK, _CLASS = "backbone.blocks.{}.", "backbone.class_blocks.{}."
_TABLE = {
    "patch_embed.*":                        "backbone.patch_embed.*",
    "cls_token":                            "backbone.prefix.tokens",
    "pos_embed":                            "backbone.position.table",
    "blocks.{}.attn.proj_l.weight":         _BLOCK + "mix.fn.before.weight",
    "blocks.{}.attn.proj_w.*":              _BLOCK + "mix.fn.behind.*",
    "blocks.{}.gamma_1":                    _BLOCK + "mix.scale.gamma",
    "blocks.{}.gamma_2":                    _BLOCK + "mlp.scale.gamma",
    **block_names("blocks.{}.", _BLOCK),
    "blocks_token_only.{}.gamma_1":         _CLASS + "mix.scale.gamma",
    "blocks_token_only.{}.gamma_2":         _CLASS + "mlp.scale.gamma",
    **block_names("blocks_token_only.{}.", _CLASS),
    "norm.*":                               "backbone.norm.*",
    "head.*":                               "head.linear.*",
}


def _keys(before: str) -> Keys:
    asked = tuple(f"{before}blocks_token_only.{{}}.attn.{part}.*" for part in "qkv")
    return Keys({before + theirs: ours for theirs, ours in _TABLE.items()},
                rows=[Row(asked, _CLASS + "mix.fn.qkv.proj.*",
                          Fold(lambda *parts: torch.cat(parts), lambda qkv: qkv.chunk(3)))],
                drop=(before + "blocks.{}.attn.proj_l.bias",))      # the same for all keys: the softmax cancels it


TIMM, OFFICIAL = _keys(""), _keys("module.")            # the authors' files were saved from within a wrapper
KEYS = {"timm": lambda settings: TIMM, "official": lambda settings: OFFICIAL}
