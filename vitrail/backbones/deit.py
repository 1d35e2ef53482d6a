"""DeiT: a ViT trained on ImageNet alone; a second token learns from a convolutional teacher.

Touvron et al., ICML 2021, arXiv:2012.12877.
"""
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from vitrail.backbones.vit import BLOCKS
from vitrail.core.card import Figures, Idea, Paper, Variant, Weights, variant
from vitrail.core.keys import Fold, Keys, Row
from vitrail.nn import (Features, LayerNorm, PatchEmbed, PositionTable, Prefix, Head, SelfAttention, Stack, TokenBody,
                        class_token, grid_of, init, drop_path_rates, transformer_block)

PAPER = Paper(title="Training data-efficient image transformers & distillation through attention", arxiv="2012.12877",
              authors="Touvron et al.", year=2021, venue="ICML", code="facebookresearch/deit", license="Apache-2.0",
              builds_on=("backbones.vit",),
              ideas=(Idea("backbones.vit", "section 3", "the network"),
                     Idea("distillation", "section 4", "learning from a teacher's answers"),
                     Idea("regnet", "experiments", "the convolutional teacher")))


class DistilledReadout(nn.Module):
    """Two linear layers: one reads the class token, one the distillation token (section 4).

    The answer is the mean of both logits (not of the probabilities), in training and evaluation alike.
    """

    def __init__(self, dim: int, classes: int):
        super().__init__()
        self.linear, self.distilled = nn.Linear(dim, classes), nn.Linear(dim, classes)

    def separate(self, features: Features) -> tuple[Tensor, Tensor]:
        """(class logits, distillation logits), each (B, classes): what the two losses are taken of."""
        assert features.prefix is not None
        return self.linear(features.prefix[:, 0]), self.distilled(features.prefix[:, 1])

    def forward(self, features: Features) -> Tensor:
        a, b = self.separate(features)              # (B, K)
        return (a + b) / 2


class DeiT(TokenBody):
    """A ViT with `tokens` learned tokens: the class token alone, or with the distillation token after it.

    image (B, 3, H, W) -> one map (B, ⌈H/p⌉, ⌈W/p⌉, dim) and the tokens, in that order.
    """

    def __init__(self, *, image: int | tuple[int, int] = 224, patch: int = 16, dim: int = 384, depth: int = 12,
                 heads: int = 6, mlp_ratio: float = 4.0, tokens: int = 1, in_chans: int = 3, drop_path: float = 0.0):
        super().__init__()
        self.channels, self.strides, self.tokens = (dim,), (patch,), tokens
        self.patch_embed, self.prefix = PatchEmbed(patch, dim, in_chans=in_chans), Prefix(tokens, dim)
        self.position = PositionTable(grid_of(image, patch), dim, prefix=tokens)
        self.blocks = Stack(transformer_block(SelfAttention(dim, heads), dim, mlp_ratio, p)
                            for p in drop_path_rates(drop_path, depth))
        self.norm = LayerNorm(dim)
        init.truncated(self)

    def make_head(self, classes: int) -> nn.Module:
        dim = self.channels[-1]
        head = Head(dim, classes, class_token) if self.tokens == 1 else DistilledReadout(dim, classes)
        init.truncated_linears(head)
        return head


def _size(params: int, gflops: float, file: str, digest: str, top1: float, *, image: int = 224,
          **args: Any) -> Variant[DeiT]:
    """A size with its two releases: timm's copy, and the authors' file (whose name ends in its hash's first digits)."""
    seen: dict[str, Any] = dict(image=image, crop=0.9 if image == 224 else 1.0, license="Apache-2.0",
                                reported={"top1": top1}, where="README of facebookresearch/deit")
    return variant(DeiT, Figures(params=params, gflops=gflops, image=image),
                   Weights(name="fb_in1k", source=f"hf://timm/{file}.fb_in1k/model.safetensors", keys="timm", **seen),
                   Weights(name="official", source=f"https://dl.fbaipublicfiles.com/deit/{file}-{digest}.pth",
                           keys="official", inside="model", **seen),
                   image=image, **args)


_TI: dict[str, Any] = dict(dim=192, heads=3)
_S: dict[str, Any] = dict(dim=384, heads=6)
_B: dict[str, Any] = dict(dim=768, heads=12)

deit_ti16 = _size(5_717_416, 1.254, "deit_tiny_patch16_224", "a1311bcf", 72.2, **_TI)
deit_s16 = _size(22_050_664, 4.599, "deit_small_patch16_224", "cd65a155", 79.9, **_S)
deit_b16 = _size(86_567_656, 17.564, "deit_base_patch16_224", "b5f2ef4d", 81.8, **_B)
deit_b16_384 = _size(86_859_496, 55.484, "deit_base_patch16_384", "8de9b5d1", 82.9, image=384, **_B)
deit_ti16_distilled = _size(5_910_800, 1.261, "deit_tiny_distilled_patch16_224", "b40b3cf7", 74.5, tokens=2, **_TI)
deit_s16_distilled = _size(22_436_432, 4.624, "deit_small_distilled_patch16_224", "649709d9", 81.2, tokens=2, **_S)
deit_b16_distilled = _size(87_338_192, 17.657, "deit_base_distilled_patch16_224", "df68dfff", 83.4, tokens=2, **_B)
deit_b16_384_distilled = _size(87_630_032, 55.591, "deit_base_distilled_patch16_384", "d0272ac0", 85.2,
                               image=384, tokens=2, **_B)

# the authors' code is built on timm's and keeps its names
_TABLE = {
    "patch_embed.proj.*": "backbone.patch_embed.proj.*",
    "pos_embed":          "backbone.position.table",
    **BLOCKS,
    "head.*":             "head.linear.*",
}
PLAIN = Keys({**_TABLE, "cls_token": "backbone.prefix.tokens"})
DISTILLED = Keys({**_TABLE, "head_dist.*": "head.distilled.*"}, rows=[
    Row(("cls_token", "dist_token"), "backbone.prefix.tokens",
        Fold(lambda a, b: torch.cat([a, b], 1), lambda tokens: tokens.split(1, 1)))])


def keys(settings: Mapping[str, Any]) -> Keys:
    """One layout for both sources, with the second token and head where there are two."""
    return PLAIN if settings["tokens"] == 1 else DISTILLED


KEYS = {"timm": keys, "official": keys}
