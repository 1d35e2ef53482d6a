"""Scaling ViT: wider and deeper, no class token; one learned probe asks all patches at the end.

Zhai et al., CVPR 2022, arXiv:2106.04560. Sizes of Table 2; the probe (MAP) of section 3.4.
"""
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from vitrail.backbones.vit import BLOCKS
from vitrail.core.card import Figures, Idea, Paper, variant
from vitrail.core.jax_keys import TRANSPOSE, attention_in, attention_out
from vitrail.core.keys import Keys, Row
from vitrail.nn import (AttentionPool, Features, LayerNorm, PatchEmbed, PositionTable, Head, SelfAttention, Stack,
                        from_tokens, grid_of, init, drop_path_rates, transformer_block)
from vitrail.nn.names import flax_rows

PAPER = Paper(title="Scaling Vision Transformers", arxiv="2106.04560", authors="Zhai et al.", year=2022, venue="CVPR",
              code="google-research/big_vision", license="Apache-2.0", builds_on=("backbones.vit",),
              ideas=(Idea("backbones.vit", "abstract", "the network that it makes larger"),
                     Idea("set_transformer", "section 3.4", "a learned probe that pools by attention")))


class ScaledViT(nn.Module):
    """PatchEmbed, positions and pre-norm blocks alone; `hidden` is the Mlp's width, no longer four times the model's.

    image (B, 3, H, W) -> one map (B, ⌈H/p⌉, ⌈W/p⌉, dim).
    """

    stem_weights = ("patch_embed.proj.weight",)

    def __init__(self, *, image: int | tuple[int, int] = 224, patch: int = 14, dim: int = 1408, depth: int = 40,
                 heads: int = 16, hidden: int = 6144, in_chans: int = 3, drop_path: float = 0.0):
        super().__init__()
        self.channels, self.strides = (dim,), (patch,)
        self.heads, self.hidden = heads, hidden
        self.patch_embed = PatchEmbed(patch, dim, in_chans=in_chans)
        self.position = PositionTable(grid_of(image, patch), dim)
        self.blocks = Stack(transformer_block(SelfAttention(dim, heads), dim, hidden / dim, p)
                            for p in drop_path_rates(drop_path, depth))
        self.norm = LayerNorm(dim)
        init.lecun_conv(self.patch_embed.proj)
        init.xavier_linears(self.blocks)
        nn.init.normal_(self.position.table, std=dim ** -0.5)

    def forward(self, image: Tensor) -> Features:
        x = self.patch_embed(image)                                            # (B, h, w, C)
        grid = x.shape[1:3]
        x = self.norm(self.blocks(self.position(x.flatten(1, 2), grid)))    # (B, N, C)
        return from_tokens(x, grid, prefix=0)

    def make_head(self, classes: int) -> nn.Module:
        dim = self.channels[-1]
        pool = AttentionPool(dim, self.heads, self.hidden, LayerNorm)
        init.xavier_linears(pool)
        nn.init.xavier_uniform_(pool.probe)
        return Head(dim, classes, pool, init_weights=init.zero_linears)


vit_giant14 = variant(ScaledViT, Figures(params=1_037_857_384, gflops=267.001), dim=1408, depth=40, hidden=6144)
vit_gigantic14 = variant(ScaledViT, Figures(params=1_882_797_416, gflops=483.277), dim=1664, depth=48, hidden=8192)

TIMM = Keys({
    "patch_embed.proj.*":     "backbone.patch_embed.proj.*",
    "pos_embed":              "backbone.position.table",
    **BLOCKS,
    "attn_pool.latent":       "head.pool.probe",
    "attn_pool.proj.*":       "head.pool.out.proj.*",
    "attn_pool.*":            "head.pool.*",
    "head.*":                 "head.linear.*",
})


def official(settings: Mapping[str, Any]) -> Keys:
    """The names of the authors' JAX code (no tensors were released)."""
    heads = settings["heads"]
    rows, table = flax_rows(heads, attention="MultiHeadDotProductAttention_0", norms=("LayerNorm_0", "LayerNorm_1"),
                            mlp="MlpBlock_0")
    at, (weight, bias), (weights, biases) = "MAPHead_0/", attention_in(heads, 1), attention_in(heads, 2)
    attention = at + "MultiHeadDotProductAttention_0/"
    rows += [
        Row((attention + "query/kernel",), "head.pool.q.weight", weight),
        Row((attention + "query/bias",), "head.pool.q.bias", bias),
        Row((attention + "key/kernel", attention + "value/kernel"), "head.pool.kv.weight", weights),
        Row((attention + "key/bias", attention + "value/bias"), "head.pool.kv.bias", biases),
        Row((attention + "out/kernel",), "head.pool.out.proj.weight", attention_out(heads)),
        *(Row((f"{at}MlpBlock_0/Dense_{i}/kernel",), f"head.pool.mlp.fc{i + 1}.weight", TRANSPOSE) for i in (0, 1)),
    ]
    table |= {"pos_embedding": "backbone.position.table", at + "probe": "head.pool.probe",
              attention + "out/bias": "head.pool.out.proj.bias",
              at + "LayerNorm_0/scale": "head.pool.norm.weight", at + "LayerNorm_0/bias": "head.pool.norm.bias",
              at + "MlpBlock_0/Dense_0/bias": "head.pool.mlp.fc1.bias",
              at + "MlpBlock_0/Dense_1/bias": "head.pool.mlp.fc2.bias"}
    return Keys(table, rows=rows)


KEYS = {"timm": lambda settings: TIMM, "official": official}
