"""ViT: an image is a sequence of patches, and a plain transformer encoder reads it.

Dosovitskiy et al., ICLR 2021, arXiv:2010.11929. Ti and S are Steiner et al., arXiv:2106.10270.
"""
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from vitrail.core.card import HALF_MEAN, HALF_STD, Figures, Idea, Paper, Variant, Weights, variant
from vitrail.core.keys import Keys
from vitrail.nn import (Block, Chain, DropPath, Features, Gelu, LayerNorm, Mlp, PatchEmbed, PositionTable, Prefix, Head,
                        Residual, SelfAttention, Stack, class_token, from_tokens, grid_of, init, drop_path_rates)
from vitrail.nn.names import block_names, flax_rows

PAPER = Paper(title="An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale", arxiv="2010.11929",
              authors="Dosovitskiy et al.", year=2021, venue="ICLR", code="google-research/vision_transformer",
              license="Apache-2.0",
              ideas=(Idea("foundations.transformer", "section 3.1", "the encoder, as little changed as can be"),
                     Idea("foundations.bert", "section 3.1", "the class token"),
                     Idea("deep_transformer", "section 3.1", "norms in front of the branches"),
                     Idea("backbones.resnet", "section 3.1", "the maps that the hybrids read"),
                     Idea("conv_like_attention", "related work", "attention over small patches of an image"),
                     Idea("image_gpt", "related work", "a Transformer over pixels")))


class ViT(nn.Module):
    """Patches, a class token, learned positions, and `depth` pre-norm blocks (equations 1 to 4).

    image (B, 3, H, W) -> one map (B, ⌈H/p⌉, ⌈W/p⌉, dim) and the class token.
    """

    stem_weights = ("patch_embed.proj.weight",)

    def __init__(self, *, image: int | tuple[int, int] = 224, patch: int = 16, dim: int = 768, depth: int = 12,
                 heads: int = 12, mlp_ratio: float = 4.0, dropout: float = 0.0, in_chans: int = 3,
                 drop_path: float = 0.0):
        super().__init__()
        self.channels, self.strides = (dim,), (patch,)
        self.patch_embed, self.prefix = PatchEmbed(patch, dim, in_chans=in_chans), Prefix(1, dim)
        self.position, self.dropout = PositionTable(grid_of(image, patch), dim, prefix=1), nn.Dropout(dropout)

        def block(p: float) -> Block:
            def branch(fn: nn.Module) -> Residual:
                drop = Chain(nn.Dropout(dropout), DropPath(p)) if dropout else DropPath(p)
                return Residual(fn, LayerNorm(dim), drop=drop)
            mlp = Mlp(dim, int(dim * mlp_ratio), lambda: Chain(Gelu(), nn.Dropout(dropout)) if dropout else Gelu())
            return Block(mix=branch(SelfAttention(dim, heads)), mlp=branch(mlp))

        self.blocks = Stack(block(p) for p in drop_path_rates(drop_path, depth))
        self.norm = LayerNorm(dim)
        init.lecun_conv(self.patch_embed.proj)
        init.xavier_linears(self.blocks)
        nn.init.normal_(self.position.table, std=0.02)

    def forward(self, image: Tensor) -> Features:
        x = self.patch_embed(image)                                        # (B, h, w, C)
        grid = x.shape[1:3]
        x = self.position(self.prefix(x.flatten(1, 2)), grid)           # (B, N, C)
        x = self.norm(self.blocks(self.dropout(x)))                     # (B, N, C)
        return from_tokens(x, grid, prefix=1)

    def make_head(self, classes: int) -> nn.Module:
        """A linear layer, born zero, on the class token."""
        return Head(self.channels[-1], classes, class_token, init_weights=init.zero_linears)


def released(file: str, name: str, *, image: int = 224, crop: float = 0.9, classes: int = 1000,
             **top1: float) -> Weights:
    """Tensors of the paper's authors, as converted by timm."""
    return Weights(name=name, source=f"hf://timm/{file}.{name}/model.safetensors", keys="timm", license="Apache-2.0",
                   classes=classes, image=image, mean=HALF_MEAN, std=HALF_STD, crop=crop, reported=top1,
                   where="README of google-research/vision_transformer" if top1 else "")


def _size(params: int, gflops: float, *weights: Weights, image: int = 224, **args: Any) -> Variant[ViT]:
    return variant(ViT, Figures(params=params, gflops=gflops, image=image), *weights, image=image, **args)


_TI: dict[str, Any] = dict(dim=192, heads=3)
_S: dict[str, Any] = dict(dim=384, heads=6)
_B: dict[str, Any] = dict(dim=768, heads=12)
_L: dict[str, Any] = dict(dim=1024, heads=16, depth=24)
_H: dict[str, Any] = dict(dim=1280, heads=16, depth=32)
_AUGREG = "augreg_in21k_ft_in1k"

vit_ti16 = _size(5_717_416, 1.254, released("vit_tiny_patch16_224", _AUGREG), **_TI)
vit_ti16_384 = _size(5_790_376, 4.682, released("vit_tiny_patch16_384", _AUGREG, image=384, crop=1.0, top1=78.22),
                     image=384, **_TI)
vit_s32 = _size(22_878_952, 1.143, released("vit_small_patch32_224", _AUGREG), patch=32, **_S)
vit_s32_384 = _size(22_915_432, 3.443, released("vit_small_patch32_384", _AUGREG, image=384, crop=1.0, top1=79.58),
                    image=384, patch=32, **_S)
vit_s16 = _size(22_050_664, 4.599, released("vit_small_patch16_224", _AUGREG), **_S)
vit_s16_384 = _size(22_196_584, 15.490, released("vit_small_patch16_384", _AUGREG, image=384, crop=1.0, top1=83.73),
                    image=384, **_S)
vit_b32 = _size(88_224_232, 4.409, released("vit_base_patch32_224", _AUGREG), patch=32, **_B)
vit_b32_384 = _size(88_297_192, 13.044, released("vit_base_patch32_384", _AUGREG, image=384, crop=1.0, top1=83.59),
                    image=384, patch=32, **_B)
vit_b16 = _size(86_567_656, 17.564, released("vit_base_patch16_224", "augreg2_in21k_ft_in1k"), **_B)
vit_b16_384 = _size(86_859_496, 55.484, released("vit_base_patch16_384", _AUGREG, image=384, crop=1.0, top1=85.49),
                    image=384, **_B)
vit_b8 = _size(86_576_872, 78.148, released("vit_base_patch8_224", "augreg2_in21k_ft_in1k"), patch=8, **_B)
vit_l32 = _size(306_535_400, 15.378, released("vit_large_patch32_224", "orig_in21k", classes=0), patch=32, **_L)
vit_l32_384 = _size(306_632_680, 45.276, released("vit_large_patch32_384", "orig_in21k_ft_in1k", image=384, crop=1.0),
                    image=384, patch=32, **_L)
vit_l16 = _size(304_326_632, 61.555, released("vit_large_patch16_224", _AUGREG), **_L)
vit_l16_384 = _size(304_715_752, 191.066, released("vit_large_patch16_384", _AUGREG, image=384, crop=1.0, top1=85.59),
                    image=384, **_L)
vit_h14 = _size(632_045_800, 167.295, released("vit_huge_patch14_224", "orig_in21k", classes=0), patch=14, **_H)

BLOCKS = {**block_names("blocks.{}.", "backbone.blocks.{}."), "norm.*": "backbone.norm.*"}
TIMM = Keys({
    "patch_embed.proj.*":       "backbone.patch_embed.proj.*",
    "cls_token":                "backbone.prefix.tokens",
    "pos_embed":                "backbone.position.table",
    **BLOCKS,
    "head.*":                   "head.linear.*",
})


def official(settings: Mapping[str, Any]) -> Keys:
    """The .npz files of the authors."""
    rows, table = flax_rows(settings["heads"], attention="MultiHeadDotProductAttention_1",
                            norms=("LayerNorm_0", "LayerNorm_2"), mlp="MlpBlock_3")
    return Keys({"cls": "backbone.prefix.tokens",
                 "Transformer/posembed_input/pos_embedding": "backbone.position.table", **table}, rows=rows)


KEYS = {"timm": lambda settings: TIMM, "official": official}
