"""Twins: PVT with conditional positions (PCPVT); or windows, and in every other block keys from all of the map (SVT).

Chu et al., NeurIPS 2021, arXiv:2104.13840.
"""
from typing import Any

from torch import Tensor, nn

from vitrail.backbones.pvt import spatial_reduction, sra_block
from vitrail.core.card import Figures, Idea, Paper, Variant, Weights, variant
from vitrail.core.keys import Keys
from vitrail.nn import (Chain, Features, GroupedAttention, LayerNorm, MapPatchEmbed, Head, Stack, Windows, each_stage,
                        init, mean_map, pyramid, drop_path_rates, transformer_block)
from vitrail.positions.conditional import ConditionalPosition

PAPER = Paper(title="Twins: Revisiting the Design of Spatial Attention in Vision Transformers", arxiv="2104.13840",
              authors="Chu et al.", year=2021, venue="NeurIPS", code="Meituan-AutoML/Twins", license="Apache-2.0",
              builds_on=("backbones.pvt", "positions.conditional"),
              ideas=(Idea("backbones.pvt", "section 3.1", "the pyramid and its reduced attention"),
                     Idea("positions.conditional", "section 3.1", "its positions"),
                     Idea("mobilenet", "section 3.2", "first near, then far, as separable convolutions"),
                     Idea("backbones.swin", "introduction", "attention inside windows")))


class Positioned(nn.Module):
    """A block with the conditional positions behind it, on a map (B, H, W, C)."""

    def __init__(self, block: nn.Module, dim: int):
        super().__init__()
        self.block, self.position = block, ConditionalPosition(dim)

    def forward(self, x: Tensor) -> Tensor:
        grid = x.shape[1], x.shape[2]
        return self.position(self.block(x).flatten(1, 2), grid).unflatten(1, grid)


class Twins(nn.Module):
    """Stages of patches and blocks; positions come once a stage, behind its first block.

    image (B, 3, H, W) -> a map (B, ⌈H/s⌉, ⌈W/s⌉, C) a stage, s = patch, 2 patch, 4 patch, ...; the last one normed.
    window: a side of the windows, which never move, in which every other block attends, from the first on (LSA, SVT);
    0 for none (PCPVT). The
    others reduce their keys to squares of reductions[i] places a side. Raises ModelError where the settings of the
    stages do not go together.
    """

    stem_weights = ("stages.0.down.proj.weight",)

    def __init__(self, *, patch: int = 4, dims: tuple[int, ...] = (64, 128, 320, 512),
                 depths: tuple[int, ...] = (3, 4, 6, 3), heads: tuple[int, ...] = (1, 2, 5, 8),
                 mlp_ratios: tuple[float, ...] = (8, 8, 4, 4), reductions: tuple[int, ...] = (8, 4, 2, 1),
                 window: int = 0, in_chans: int = 3, drop_path: float = 0.0):
        super().__init__()
        each_stage(dims=dims, depths=depths, heads=heads, mlp_ratios=mlp_ratios, reductions=reductions)
        self.channels, self.strides = tuple(dims), tuple(patch << i for i in range(len(dims)))
        drops = iter(drop_path_rates(drop_path, sum(depths)))

        def block(i: int, j: int) -> nn.Module:
            mixer = (GroupedAttention(dims[i], heads[i], Windows(window)) if window and j % 2 == 0
                     else spatial_reduction(dims[i], heads[i], reductions[i]))
            made = transformer_block(mixer, dims[i], mlp_ratios[i], next(drops))
            return made if j else Positioned(made, dims[i])

        self.stages = nn.ModuleList(
            Chain(down=MapPatchEmbed(2 if i else patch, dims[i - 1] if i else in_chans, dim, nn.LayerNorm(dim)),
                  blocks=Stack(block(i, j) for j in range(depths[i]))) for i, dim in enumerate(dims))
        self.norm = LayerNorm(dims[-1])
        init.truncated_linears(self)
        init.fan_out_convs(self)

    def forward(self, image: Tensor) -> Features:
        *finer, x = pyramid(image.permute(0, 2, 3, 1), self.stages)     # (B, H, W, C)
        return Features(maps=(*finer, self.norm(x)))

    def make_head(self, classes: int) -> nn.Module:
        """A linear layer on the mean of the last map."""
        return Head(self.channels[-1], classes, mean_map, init_weights=init.truncated_linears)


def _size(params: int, gflops: float, file: str, reported: tuple[float, float], top1: float,
          **args: Any) -> Variant[Twins]:
    """With timm's copy of the released tensors; the authors' own files lie on an address that no program can read."""
    readme = "README of Meituan-AutoML/Twins"
    return variant(
        Twins, Figures(params=params, gflops=gflops, where=readme,
                       reported=dict(zip(("params_m", "gflops"), reported, strict=True))),
        Weights(name="in1k", source=f"hf://timm/{file}.in1k/model.safetensors", keys="timm", license="Apache-2.0",
                crop=0.9, reported={"top1": top1}, where=readme), **args)


def _svt(dim: int, heads: int, depths: tuple[int, ...]) -> dict[str, Any]:
    return dict(dims=tuple(dim << i for i in range(4)), heads=tuple(heads << i for i in range(4)), depths=depths,
                mlp_ratios=(4, 4, 4, 4), window=7)


twins_pcpvt_s = _size(24_106_216, 3.809, "twins_pcpvt_small", (24.1, 3.7), 81.2, depths=(3, 4, 6, 3))
twins_pcpvt_b = _size(43_828_456, 6.653, "twins_pcpvt_base", (43.8, 6.4), 82.7, depths=(3, 4, 18, 3))
twins_pcpvt_l = _size(60_989_672, 9.808, "twins_pcpvt_large", (60.9, 9.5), 83.1, depths=(3, 8, 27, 3))
twins_svt_s = _size(24_060_776, 2.927, "twins_svt_small", (24.0, 2.8), 81.7, **_svt(64, 2, (2, 2, 10, 4)))
twins_svt_b = _size(56_070_952, 8.563, "twins_svt_base", (56.0, 8.3), 83.2, **_svt(96, 3, (2, 2, 18, 2)))
twins_svt_l = _size(99_271_400, 15.112, "twins_svt_large", (99.2, 14.8), 83.7, **_svt(128, 4, (2, 2, 18, 2)))


def _blocks(there: str, here: str) -> dict[str, str]:
    return {there + "attn.qkv.*": here + "mix.fn.qkv.proj.*", **sra_block(there, here)}


# the output of attention is named alike in both kinds of block; timm keeps the authors' names
TABLE = Keys({
    "patch_embeds.{}.*":        "backbone.stages.{}.down.*",
    "pos_block.{}.proj.0.*":    "backbone.stages.{}.blocks.0.position.conv.*",
    **_blocks("blocks.{}.0.", "backbone.stages.{}.blocks.0.block."),
    **_blocks("blocks.{}.{}.", "backbone.stages.{}.blocks.{}."),
    "norm.*":                   "backbone.norm.*",
    "head.*":                   "head.linear.*",
})
KEYS = {"timm": lambda settings: TABLE, "official": lambda settings: TABLE}
