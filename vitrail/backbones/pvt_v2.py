"""PVT v2: PVT without positions; patches that overlap and a convolution in every Mlp tell where a token is.

Wang et al., Computational Visual Media 2022, arXiv:2106.13797.
"""
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from vitrail.backbones.pvt import spatial_reduction, sra_block
from vitrail.core.card import Figures, Idea, Paper, Variant, Weights, variant
from vitrail.core.errors import ModelError
from vitrail.core.keys import Keys
from vitrail.nn import (Block, Chain, Conv, DepthwiseMlp, DropPath, Features, LayerNorm, PoolCells, Head, Reduced,
                        ReducedAttention, Residual, Stack, each_stage, init, mean_map, pyramid, drop_path_rates)

PAPER = Paper(title="PVT v2: Improved Baselines with Pyramid Vision Transformer", arxiv="2106.13797",
              authors="Wang et al.", year=2022, venue="Computational Visual Media", code="whai362/PVT",
              license="Apache-2.0", builds_on=("backbones.pvt",),
              ideas=(Idea("backbones.pvt", "method", "the network that it improves"),
                     Idea("positions.conditional", "method", "positions by a convolution"),
                     Idea("cnn_positions", "method", "zeros at the border tell where a place is"),
                     Idea("localvit", "method", "a convolution inside the Mlp")))


def overlapping_patches(patch: int, stride: int, channels: int, dim: int) -> Chain:
    """Patches that reach into their neighbours, normed: (B, H, W, channels) -> (B, ⌈H/s⌉, ⌈W/s⌉, dim)."""
    return Chain(proj=Conv(channels, dim, patch, stride, patch // 2), norm=nn.LayerNorm(dim))


def linear_reduction(dim: int, heads: int, size: int) -> ReducedAttention:
    """Linear SRA: keys and values are of size x size means, so that the cost is linear in the image."""
    reduce = Chain(pool=PoolCells(size), conv=Conv(dim, dim, 1), norm=nn.LayerNorm(dim), act=nn.GELU())
    return ReducedAttention(dim, heads, reduce, Reduced(nn.AdaptiveAvgPool2d(size)))


class PVTv2(nn.Module):
    """Stages of overlapping patches, blocks and a norm (table 1).

    image (B, 3, H, W) -> a map (B, ⌈H/s⌉, ⌈W/s⌉, C) a stage, s = 4, 8, 16, 32.
    reductions: a stage's keys stand for squares of so many places a side; or, in all stages, pool: for pool x pool
    means (linear SRA). Raises ModelError where the settings of the stages do not go together.
    """

    stem_weights = ("stages.0.down.proj.weight",)

    def __init__(self, *, dims: tuple[int, ...] = (64, 128, 320, 512), depths: tuple[int, ...] = (3, 4, 6, 3),
                 heads: tuple[int, ...] = (1, 2, 5, 8), mlp_ratios: tuple[float, ...] = (8, 8, 4, 4),
                 reductions: tuple[int, ...] = (8, 4, 2, 1), pool: int = 0, in_chans: int = 3, drop_path: float = 0.0):
        super().__init__()
        each_stage(dims=dims, depths=depths, heads=heads, mlp_ratios=mlp_ratios, reductions=reductions)
        if pool and set(reductions) != {1}:
            raise ModelError(f"pool={pool} and reductions={reductions}: keys are means of the whole map or squares of "
                             "it, not both; with pool every reduction is 1")
        self.channels, self.strides = tuple(dims), tuple(4 << i for i in range(len(dims)))
        drops = iter(drop_path_rates(drop_path, sum(depths)))

        def block(i: int, drop: float) -> Block:
            mixer = linear_reduction(dims[i], heads[i], pool) if pool else spatial_reduction(dims[i], heads[i],
                                                                                             reductions[i])
            # in the release of linear SRA alone, a ReLU that the paper does not have
            mlp = DepthwiseMlp(dims[i], int(dims[i] * mlp_ratios[i]), first=nn.ReLU() if pool else None)
            return Block(mix=Residual(mixer, LayerNorm(dims[i]), drop=DropPath(drop)),
                         mlp=Residual(mlp, LayerNorm(dims[i]), drop=DropPath(drop)))

        self.stages = nn.ModuleList(
            Chain(down=overlapping_patches(3, 2, dims[i - 1], dim) if i else overlapping_patches(7, 4, in_chans, dim),
                  blocks=Stack(block(i, next(drops)) for _ in range(depths[i])), norm=LayerNorm(dim))
            for i, dim in enumerate(dims))
        init.truncated_linears(self)
        init.fan_out_convs(self)

    def forward(self, image: Tensor) -> Features:
        x = image.permute(0, 2, 3, 1)                                   # (B, H, W, C)
        return Features(maps=pyramid(x, self.stages))

    def make_head(self, classes: int) -> nn.Module:
        """A linear layer on the mean of the last map."""
        return Head(self.channels[-1], classes, mean_map, init_weights=init.truncated_linears)


def _size(params: int, gflops: float, file: str, params_m: float, top1: float, **args: Any) -> Variant[PVTv2]:
    seen: dict[str, Any] = dict(license="Apache-2.0", reported={"top1": top1}, where="README of whai362/PVT")
    return variant(
        PVTv2, Figures(params=params, gflops=gflops, reported={"params_m": params_m}, where="README of whai362/PVT"),
        Weights(name="in1k", source=f"hf://timm/{file}.in1k/model.safetensors", keys="timm", crop=0.9, **seen),
        Weights(name="official", source=f"https://github.com/whai362/PVT/releases/download/v2/{file}.pth",
                keys="official", **seen), **args)


pvt_v2_b0 = _size(3_666_760, 0.566, "pvt_v2_b0", 3.7, 70.5, dims=(32, 64, 160, 256), depths=(2, 2, 2, 2))
pvt_v2_b1 = _size(14_009_000, 2.108, "pvt_v2_b1", 14.0, 78.7, depths=(2, 2, 2, 2))
pvt_v2_b2 = _size(25_362_856, 4.027, "pvt_v2_b2", 25.4, 82.0, depths=(3, 4, 6, 3))
pvt_v2_b2_li = _size(22_553_512, 3.889, "pvt_v2_b2_li", 22.6, 82.1, depths=(3, 4, 6, 3),
                     reductions=(1, 1, 1, 1), pool=7)
pvt_v2_b3 = _size(45_238_696, 6.897, "pvt_v2_b3", 45.2, 83.1, depths=(3, 4, 18, 3))
pvt_v2_b4 = _size(62_556_072, 10.101, "pvt_v2_b4", 62.6, 83.6, depths=(3, 8, 27, 3))
pvt_v2_b5 = _size(81_956_008, 11.717, "pvt_v2_b5", 82.0, 83.8, depths=(3, 6, 40, 3), mlp_ratios=(4, 4, 4, 4))

_BLOCK = "backbone.stages.{}.blocks.{}."
TIMM = Keys({
    "patch_embed.*":                        "backbone.stages.0.down.*",
    "stages.{}.downsample.*":               "backbone.stages.{}.down.*",
    "stages.{}.blocks.{}.mlp.dwconv.*":     _BLOCK + "mlp.fn.conv.*",
    **sra_block("stages.{}.blocks.{}.", _BLOCK),
    "stages.{}.norm.*":                     "backbone.stages.{}.norm.*",
    "head.*":                               "head.linear.*",
})


def official(settings: Mapping[str, Any]) -> Keys:
    """The authors' names, which count stages from 1."""
    table = {"head.*": "head.linear.*"}
    for i in range(len(settings["depths"])):
        there, here = f"block{i + 1}.{{}}.", f"backbone.stages.{i}.blocks.{{}}."
        table |= {f"patch_embed{i + 1}.*": f"backbone.stages.{i}.down.*",
                  f"norm{i + 1}.*": f"backbone.stages.{i}.norm.*",
                  there + "mlp.dwconv.dwconv.*": here + "mlp.fn.conv.*", **sra_block(there, here)}
    return Keys(table)


KEYS = {"timm": lambda settings: TIMM, "official": official}
