"""ConViT: each head is born a convolution and learns, by one gate, how far to leave it.

d'Ascoli et al., ICML 2021, arXiv:2103.10697.
"""
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from vitrail.backbones.vit import BLOCKS
from vitrail.core.card import Figures, Idea, Paper, Variant, Weights, variant
from vitrail.core.errors import ModelError
from vitrail.core.keys import Fold, Keys, Row
from vitrail.nn import (Features, LayerNorm, PatchEmbed, PositionTable, Prefix, Head, SelfAttention, Stack, class_token,
                        from_tokens, grid_of, init, drop_path_rates, transformer_block)
from vitrail.positions.gated import GatedPositional, as_convolution

PAPER = Paper(title="ConViT: Improving Vision Transformers with Soft Convolutional Inductive Biases",
              arxiv="2103.10697", authors="d'Ascoli et al.", year=2021, venue="ICML", code="facebookresearch/convit",
              license="Apache-2.0 (its LICENSE; the headers of two files say CC-BY-NC)",
              builds_on=("backbones.vit", "positions.gated"),
              ideas=(Idea("positions.gated", "method", "its attention"),
                     Idea("backbones.vit", "introduction", "the network that is given a bias to locality"),
                     Idea("backbones.deit", "method", "the sizes and the training")))


class ConViT(nn.Module):
    """`local` layers of gated positional attention, in which there is no class token yet, then plain layers with it.

    image (B, 3, H, W) -> one map (B, ⌈H/p⌉, ⌈W/p⌉, dim) and the class token.
    Raises ModelError where no plain layer is left to the class token.
    """

    stem_weights = ("patch_embed.proj.weight",)

    def __init__(self, *, image: int | tuple[int, int] = 224, patch: int = 16, dim: int = 192, depth: int = 12,
                 heads: int = 4, mlp_ratio: float = 4.0, local: int = 10, locality: float = 1.0, in_chans: int = 3,
                 drop_path: float = 0.0):
        super().__init__()
        if not 0 <= local < depth:
            raise ModelError(f"local={local} of depth={depth} layers cannot be local: the class token joins after "
                             f"them and needs at least one layer; say 0 to {depth - 1}")
        self.channels, self.strides = (dim,), (patch,)
        self.patch_embed, self.prefix = PatchEmbed(patch, dim, in_chans=in_chans), Prefix(1, dim)
        self.position = PositionTable(grid_of(image, patch), dim)
        drops, gated = drop_path_rates(drop_path, depth), [GatedPositional(dim, heads) for _ in range(local)]
        self.local = Stack(transformer_block(m, dim, mlp_ratio, p) for m, p in zip(gated, drops, strict=False))
        self.blocks = Stack(transformer_block(SelfAttention(dim, heads, qkv_bias=False), dim, mlp_ratio, p)
                            for p in drops[local:])
        self.norm = LayerNorm(dim)
        init.truncated(self)
        for mixer in gated:
            as_convolution(mixer, locality)

    def forward(self, image: Tensor) -> Features:
        x = self.patch_embed(image)                                                # (B, h, w, C)
        grid = x.shape[1:3]
        x = self.local(self.position(x.flatten(1, 2), grid), grid)              # (B, N, C)
        x = self.norm(self.blocks(self.prefix(x)))                              # (B, 1 + N, C)
        return from_tokens(x, grid, prefix=1)

    def make_head(self, classes: int) -> nn.Module:
        return Head(self.channels[-1], classes, class_token, init_weights=init.truncated_linears)


def _size(params: int, gflops: float, file: str, top1: float, where: str, **args: Any) -> Variant[ConViT]:
    seen: dict[str, Any] = dict(license="Apache-2.0", reported={"top1": top1}, where=where)
    return variant(ConViT, Figures(params=params, gflops=gflops),
                   Weights(name="fb_in1k", source=f"hf://timm/{file}.fb_in1k/model.safetensors", keys="timm", **seen),
                   Weights(name="official", source=f"https://dl.fbaipublicfiles.com/convit/{file}.pth", keys="official",
                           **seen), **args)


convit_ti = _size(5_710_512, 1.248, "convit_tiny", 73.116, "README of facebookresearch/convit", dim=192, heads=4)
convit_s = _size(27_777_322, 5.736, "convit_small", 81.3, "the paper", dim=432, heads=9)
convit_b = _size(86_540_040, 17.487, "convit_base", 82.4, "the paper", dim=768, heads=16)


def _plus(params: int, gflops: float, top1: float, millions: int, billions: int, **args: Any) -> Variant[ConViT]:
    """Table 1's "+" sizes, whose heads are 64 wide like DeiT's. None was released."""
    said = {"top1": top1, "params_m": millions, "gflops": billions}
    return variant(ConViT, Figures(params=params, gflops=gflops, reported=said, where="table 1"), **args)


convit_ti_plus = _plus(9_972_912, 2.127, 76.7, 10, 2, dim=256, heads=4)
convit_s_plus = _plus(48_979_882, 9.991, 82.2, 48, 10, dim=576, heads=9)
convit_b_plus = _plus(153_134_856, 30.721, 82.5, 152, 30, dim=1024, heads=16)


def keys(settings: Mapping[str, Any]) -> Keys:
    """Both sources: one list of layers where we have two stacks, and queries and keys apart from values."""
    table = {"patch_embed.proj.*": "backbone.patch_embed.proj.*", "cls_token": "backbone.prefix.tokens",
             "pos_embed": "backbone.position.table"}
    rows, joined = [], Fold(lambda qk, v: torch.cat([qk, v]), lambda qkv: qkv.tensor_split((len(qkv) * 2 // 3,)))
    for i in range(settings["depth"]):
        gated = i < settings["local"]
        ours = f"local.{i}" if gated else f"blocks.{i - settings['local']}"
        table |= {theirs.replace("{}", str(i)): name.replace("blocks.{}", ours) for theirs, name in BLOCKS.items()}
        if gated:
            at, mixer = f"blocks.{i}.attn.", f"backbone.{ours}.mix.fn."
            rows.append(Row((at + "qk.weight", at + "v.weight"), mixer + "qkv.proj.weight", joined))
            table |= {at + "pos_proj.*": mixer + "position.*", at + "gating_param": mixer + "gate"}
    return Keys({**table, "head.*": "head.linear.*"}, rows=rows)


KEYS = {"timm": keys, "official": keys}
