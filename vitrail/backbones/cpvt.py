"""CPVT: DeiT whose positions a convolution makes of the tokens themselves, behind the first block.

Chu et al., ICLR 2023, arXiv:2102.10882. The authors released neither weights nor this network's code, only the code of
its positions, with Twins.
"""
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from vitrail.backbones.vit import BLOCKS
from vitrail.core.card import Figures, Idea, Variant, variant
from vitrail.core.errors import ModelError
from vitrail.core.keys import Keys
from vitrail.nn import (Features, LayerNorm, PatchEmbed, Prefix, Head, SelfAttention, Stack, class_token, from_tokens,
                        init, mean_map, drop_path_rates, transformer_block)
from vitrail.positions.conditional import PAPER as POSITIONS
from vitrail.positions.conditional import ConditionalPosition

PAPER = replace(POSITIONS, builds_on=("backbones.vit", "positions.conditional"),
                ideas=(Idea("positions.conditional", "section 3", "its positions"),
                       Idea("backbones.vit", "section 3", "the network"),
                       Idea("backbones.deit", "section 3", "the sizes and the training")))


class CPVT(nn.Module):
    """Patches, a first block, positions by convolution, and the other blocks (section 3).

    image (B, 3, H, W) -> one map (B, ⌈H/p⌉, ⌈W/p⌉, dim) and the class token. tokens: 1 for a class token, which the
    convolution leaves alone; 0 for none, and an answer read off the mean (GAP). Raises ModelError for other numbers.
    """

    stem_weights = ("patch_embed.proj.weight",)

    def __init__(self, *, patch: int = 16, dim: int = 384, depth: int = 12, heads: int = 6, mlp_ratio: float = 4.0,
                 tokens: int = 1, in_chans: int = 3, drop_path: float = 0.0):
        super().__init__()
        if tokens not in (0, 1) or depth < 1:
            raise ModelError(f"tokens={tokens} and depth={depth}: there is one class token or none, and a block that "
                             "positions stand behind")
        self.channels, self.strides, self.tokens = (dim,), (patch,), tokens
        self.patch_embed = PatchEmbed(patch, dim, in_chans=in_chans)
        self.prefix = Prefix(1, dim) if tokens else nn.Identity()
        first, *others = drop_path_rates(drop_path, depth)

        def blocks(*drops: float) -> Stack:
            return Stack(transformer_block(SelfAttention(dim, heads), dim, mlp_ratio, p) for p in drops)
        self.first, self.blocks = blocks(first), blocks(*others)
        self.position = ConditionalPosition(dim, prefix=tokens)
        self.norm = LayerNorm(dim)
        init.truncated(self)
        init.fan_out_convs(self.position)

    def forward(self, image: Tensor) -> Features:
        x = self.patch_embed(image)                                        # (B, h, w, C)
        grid = x.shape[1], x.shape[2]
        x = self.first(self.prefix(x.flatten(1, 2)))                    # (B, N, C)
        x = self.norm(self.blocks(self.position(x, grid)))              # (B, N, C)
        return from_tokens(x, grid, prefix=self.tokens)

    def make_head(self, classes: int) -> nn.Module:
        pool = class_token if self.tokens else mean_map
        return Head(self.channels[-1], classes, pool, init_weights=init.truncated_linears)


def _size(params: int, gflops: float, **args: Any) -> Variant[CPVT]:
    return variant(CPVT, Figures(params=params, gflops=gflops), **args)


cpvt_ti16 = _size(5_681_512, 1.254, dim=192, heads=3)
cpvt_s16 = _size(21_978_856, 4.600, dim=384, heads=6)
cpvt_b16 = _size(86_424_040, 17.565, dim=768, heads=12)
cpvt_ti16_gap = _size(5_681_320, 1.247, dim=192, heads=3, tokens=0)
cpvt_s16_gap = _size(21_978_472, 4.575, dim=384, heads=6, tokens=0)


def timm(settings: Mapping[str, Any]) -> Keys:
    """timm's names of a DeiT, with its name of Twins' positions."""
    table = {"patch_embed.proj.*": "backbone.patch_embed.proj.*", "cls_token": "backbone.prefix.tokens",
             "pos_block.proj.0.*": "backbone.position.conv.*", "head.*": "head.linear.*", "norm.*": BLOCKS["norm.*"]}
    for i in range(settings["depth"]):
        here = f"blocks.{i - 1}." if i else "first.0."
        table |= {there.replace("{}", str(i)): ours.replace("blocks.{}.", here)
                  for there, ours in BLOCKS.items() if "{}" in there}
    return Keys(table)


KEYS = {"timm": timm}
