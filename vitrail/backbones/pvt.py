"""PVT: a transformer in four stages, each of a coarser map, whose keys and values come from a map reduced once more.

Wang et al., ICCV 2021, arXiv:2102.12122.
"""
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from vitrail.core.card import Figures, Idea, Paper, Variant, Weights, variant
from vitrail.core.errors import ModelError
from vitrail.core.keys import Fold, Keys, Row
from vitrail.nn import (Features, LayerNorm, MapPatchEmbed, PositionTable, Prefix, Head, ReducedAttention,
                        SelfAttention, Shrink, Stack, class_token, each_stage, from_tokens, grid_of, init, pyramid,
                        drop_path_rates, squares, transformer_block)

PAPER = Paper(title="Pyramid Vision Transformer: A Versatile Backbone for Dense Prediction without Convolutions",
              arxiv="2102.12122", authors="Wang et al.", year=2021, venue="ICCV", code="whai362/PVT",
              license="Apache-2.0",
              ideas=(Idea("backbones.vit", "introduction", "attention over patches, without convolutions"),
                     Idea("backbones.resnet", "method", "four stages of coarser maps"),
                     Idea("attention.self_attention", "method", "attention, with keys and values reduced")))


def spatial_reduction(dim: int, heads: int, size: int) -> ReducedAttention:
    """SRA (equations 1 to 3): keys and values are of squares of size x size places; with size 1 of all places."""
    if size == 1:
        return ReducedAttention(dim, heads, nn.Identity(), None)
    return ReducedAttention(dim, heads, Shrink(dim, size, nn.LayerNorm(dim)), squares(size))


class Stage(nn.Module):
    """PatchEmbed, learned positions, blocks: (B, H, W, channels) -> (B, ⌈H/p⌉, ⌈W/p⌉, dim)."""

    def __init__(self, down: MapPatchEmbed, position: PositionTable, blocks: Stack):
        super().__init__()
        self.down, self.position, self.blocks = down, position, blocks

    def forward(self, x: Tensor) -> Tensor:
        x = self.down(x)                                                        # (B, h, w, C)
        grid = x.shape[1], x.shape[2]
        return self.blocks(self.position(x.flatten(1, 2), grid).unflatten(1, grid))


class ClassStage(nn.Module):
    """The last stage, where a class token joins: (B, H, W, channels) -> one map and the token, normed."""

    def __init__(self, down: MapPatchEmbed, position: PositionTable, blocks: Stack, dim: int):
        super().__init__()
        self.down, self.prefix, self.position, self.blocks = down, Prefix(1, dim), position, blocks
        self.norm = LayerNorm(dim)

    def forward(self, x: Tensor) -> Features:
        x = self.down(x)                                                        # (B, h, w, C)
        grid = x.shape[1], x.shape[2]
        x = self.position(self.prefix(x.flatten(1, 2)), grid)                   # (B, N, C)
        return from_tokens(self.norm(self.blocks(x)), grid, prefix=1)


class PVT(nn.Module):
    """`Stage`s, and a `ClassStage` whose keys are not reduced (table 1).

    The norms of patches and of reduced maps have an epsilon of 1e-5, those of blocks one of 1e-6, as in the release.

    image (B, 3, H, W) -> a map (B, ⌈H/s⌉, ⌈W/s⌉, C) a stage, s = patch, 2 patch, 4 patch, ..., and the class token.
    reductions: a stage's keys stand for squares of so many places a side. Raises ModelError where the settings of the
    stages do not go together.
    """

    def __init__(self, *, image: int | tuple[int, int] = 224, patch: int = 4,
                 dims: tuple[int, ...] = (64, 128, 320, 512), depths: tuple[int, ...] = (2, 2, 2, 2),
                 heads: tuple[int, ...] = (1, 2, 5, 8), mlp_ratios: tuple[float, ...] = (8, 8, 4, 4),
                 reductions: tuple[int, ...] = (8, 4, 2, 1), in_chans: int = 3, drop_path: float = 0.0):
        super().__init__()
        each_stage(dims=dims, depths=depths, heads=heads, mlp_ratios=mlp_ratios, reductions=reductions)
        if reductions[-1] != 1:
            raise ModelError(f"reductions={reductions}: the last stage holds a class token, which no square of places "
                             "takes in, so its reduction is 1")
        self.channels, self.strides = tuple(dims), tuple(patch << i for i in range(len(dims)))
        drops = iter(drop_path_rates(drop_path, sum(depths)))
        last = len(dims) - 1

        def parts(i: int) -> tuple[MapPatchEmbed, PositionTable, Stack]:
            def mixer() -> nn.Module:
                return (SelfAttention(dims[i], heads[i]) if i == last
                        else spatial_reduction(dims[i], heads[i], reductions[i]))
            return (MapPatchEmbed(2 if i else patch, dims[i - 1] if i else in_chans, dims[i], nn.LayerNorm(dims[i])),
                    PositionTable(grid_of(image, self.strides[i]), dims[i], prefix=int(i == last)),
                    Stack(transformer_block(mixer(), dims[i], mlp_ratios[i], next(drops)) for _ in range(depths[i])))

        self.stages = nn.ModuleList(Stage(*parts(i)) for i in range(last))
        self.last = ClassStage(*parts(last), dims[last])
        self.stem_weights = ("stages.0.down.proj.weight" if last else "last.down.proj.weight",)
        init.truncated(self)

    def forward(self, image: Tensor) -> Features:
        x = image.permute(0, 2, 3, 1)                                           # (B, H, W, C)
        finer = pyramid(x, self.stages)
        coarsest = self.last(finer[-1] if finer else x)
        return Features(maps=(*finer, *coarsest.maps), prefix=coarsest.prefix)

    def make_head(self, classes: int) -> nn.Module:
        """A linear layer on the class token."""
        return Head(self.channels[-1], classes, class_token, init_weights=init.truncated_linears)


def _size(params: int, gflops: float, file: str, params_m: float, top1: float, **args: Any) -> Variant[PVT]:
    readme = "README of whai362/PVT"
    return variant(
        PVT, Figures(params=params, gflops=gflops, reported={"params_m": params_m}, where=readme),
        Weights(name="official", source=f"https://github.com/whai362/PVT/releases/download/v2/{file}.pth",
                keys="official", license="Apache-2.0", reported={"top1": top1}, where=readme), **args)


pvt_tiny = _size(13_229_288, 1.933, "pvt_tiny", 13.2, 75.1, depths=(2, 2, 2, 2))
pvt_small = _size(24_485_864, 3.816, "pvt_small", 24.5, 79.8, depths=(3, 4, 6, 3))
pvt_medium = _size(44_208_104, 6.659, "pvt_medium", 44.2, 81.2, depths=(3, 4, 18, 3))
pvt_large = _size(61_369_320, 9.814, "pvt_large", 61.4, 81.7, depths=(3, 8, 27, 3))


def sra_block(there: str, here: str) -> dict[str, str]:
    """A block of spatial reduction as the authors, and all who build on them, name it."""
    return {
        there + "norm1.*":      here + "mix.norm.*",
        there + "attn.q.*":     here + "mix.fn.q.*",
        there + "attn.kv.*":    here + "mix.fn.kv.*",
        there + "attn.sr.*":    here + "mix.fn.reduce.conv.*",
        there + "attn.norm.*":  here + "mix.fn.reduce.norm.*",
        there + "attn.proj.*":  here + "mix.fn.out.proj.*",
        there + "norm2.*":      here + "mlp.norm.*",
        there + "mlp.*":        here + "mlp.fn.*",
    }


def official(settings: Mapping[str, Any]) -> Keys:
    """The authors' names. Queries stand apart from keys and values in the last stage too, where ours are one."""
    last = len(settings["depths"]) - 1
    table = {"cls_token": "backbone.last.prefix.tokens", "norm.*": "backbone.last.norm.*", "head.*": "head.linear.*"}
    for i in range(last + 1):
        here = "backbone.last." if i == last else f"backbone.stages.{i}."
        table |= {f"patch_embed{i + 1}.*": here + "down.*", f"pos_embed{i + 1}": here + "position.table",
                  **sra_block(f"block{i + 1}.{{}}.", here + "blocks.{}.")}
    return Keys(table, rows=[
        Row((f"block{last + 1}.{{}}.attn.q.*", f"block{last + 1}.{{}}.attn.kv.*"),
            "backbone.last.blocks.{}.mix.fn.qkv.proj.*",
            Fold(lambda q, kv: torch.cat([q, kv]), lambda qkv: qkv.tensor_split((len(qkv) // 3,))))])


def transformers(settings: Mapping[str, Any]) -> Keys:
    """The names of the package transformers."""
    last = len(settings["depths"]) - 1
    joined = Fold(lambda *parts: torch.cat(parts), lambda k_v: k_v.chunk(2))
    table = {"pvt.encoder.layer_norm.*": "backbone.last.norm.*", "classifier.*": "head.linear.*",
             f"pvt.encoder.patch_embeddings.{last}.cls_token": "backbone.last.prefix.tokens"}
    rows = []
    for i in range(last + 1):
        here = "backbone.last." if i == last else f"backbone.stages.{i}."
        patch, there, block = f"pvt.encoder.patch_embeddings.{i}.", f"pvt.encoder.block.{i}.{{}}.", here + "blocks.{}."
        at = there + "attention.self."
        table |= {patch + "projection.*": here + "down.proj.*", patch + "layer_norm.*": here + "down.norm.*",
                  patch + "position_embeddings": here + "position.table",
                  there + "layer_norm_1.*": block + "mix.norm.*", there + "layer_norm_2.*": block + "mlp.norm.*",
                  at + "sequence_reduction.*": block + "mix.fn.reduce.conv.*",
                  at + "layer_norm.*": block + "mix.fn.reduce.norm.*",
                  there + "attention.output.dense.*": block + "mix.fn.out.proj.*",
                  there + "mlp.dense1.*": block + "mlp.fn.fc1.*", there + "mlp.dense2.*": block + "mlp.fn.fc2.*"}
        if i < last:
            table[at + "query.*"] = block + "mix.fn.q.*"
            rows.append(Row((at + "key.*", at + "value.*"), block + "mix.fn.kv.*", joined))
        else:
            rows.append(Row((at + "query.*", at + "key.*", at + "value.*"), block + "mix.fn.qkv.proj.*",
                            Fold(lambda *parts: torch.cat(parts), lambda qkv: qkv.chunk(3))))
    return Keys(table, rows=rows)


KEYS = {"official": official, "transformers": transformers}
