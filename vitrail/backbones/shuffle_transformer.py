"""Shuffle Transformer: every other block shuffles the map, so that a window holds tokens from all over it.

What stands between the windows is joined by a depthwise convolution. Huang et al., arXiv:2106.03650.
"""
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from vitrail.backbones.swin import WindowAttention, window_block
from vitrail.core.card import Figures, Idea, Paper, Variant, variant
from vitrail.core.keys import AS_CONV, Keys, Row
from vitrail.nn import (BatchNorm, Chain, Conv, DropPath, Features, Mlp, Head, Residual, Split, Stack, Strided,
                        Windows, each_stage, init, mean_map, pyramid, drop_path_rates)
from vitrail.ops.windows import pad_to

PAPER = Paper(title="Shuffle Transformer: Rethinking Spatial Shuffle for Vision Transformer", arxiv="2106.03650",
              authors="Huang et al.", year=2021, code="mulinmeng/Shuffle-Transformer", license="MIT",
              builds_on=("backbones.swin",),
              ideas=(Idea("backbones.swin", "introduction", "attention inside windows"),
                     Idea("shufflenet", "introduction", "shuffling, there of channels")))


class ConvMerging(nn.Module):
    """A batch norm, and four neighbours become one token: (B, H, W, C) -> (B, ⌈H/2⌉, ⌈W/2⌉, 2C). An odd side gets a
    row of zeros."""

    def __init__(self, dim: int):
        super().__init__()
        self.norm, self.reduce = BatchNorm(dim), Conv(dim, 2 * dim, 2, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.reduce(pad_to(self.norm(x), 2))


def conv_patches(hidden: int, dim: int, *, in_chans: int = 3) -> Chain:
    """Two convolutions of stride 2 and a projection: (B, H, W, in_chans) -> (B, ⌈H/4⌉, ⌈W/4⌉, dim)."""
    return Chain(conv1=Conv(in_chans, hidden, 3, 2, 1), norm1=BatchNorm(hidden), act1=nn.ReLU6(),
                 conv2=Conv(hidden, dim, 3, 2, 1), norm2=BatchNorm(dim), act2=nn.ReLU6(), proj=Conv(dim, dim, 1))


class ShuffleTransformer(nn.Module):
    """Four stages of blocks (section 3.3): attention inside windows, in odd blocks inside groups of as many tokens that
    stand apart; a depthwise convolution as large as a window; an Mlp with ReLU6.

    image (B, 3, H, W) -> a map (B, ⌈H/s⌉, ⌈W/s⌉, C) a stage, s = 4, 8, 16, ... . All norms are batch norms, and none
    stands behind the last block. Queries, keys and values have no bias. hidden: channels between the convolutions that
    read the image. Stochastic depth grows from stage to stage, and spares the convolutions, as released.
    """

    stem_weights = ("stages.0.down.conv1.weight",)

    def __init__(self, *, dim: int = 96, hidden: int = 32, depths: tuple[int, ...] = (2, 2, 6, 2),
                 heads: tuple[int, ...] = (3, 6, 12, 24), window: int = 7, mlp_ratio: float = 4.0, in_chans: int = 3,
                 drop_path: float = 0.0):
        super().__init__()
        each_stage(depths=depths, heads=heads)
        if window % 2 == 0:
            raise ValueError(f"a window of {window}: the depthwise convolution is as large, and needs an odd size")
        self.channels = tuple(dim << i for i in range(len(depths)))
        self.strides = tuple(4 << i for i in range(len(depths)))

        def block(width: int, heads: int, groups: Windows | Strided, drop: float) -> Chain:
            mlp = Mlp(width, int(width * mlp_ratio), nn.ReLU6)
            mixer = WindowAttention(width, heads, groups)
            mixer.qkv = Split(width, heads, 3, bias=False)
            return Chain(mix=Residual(mixer, BatchNorm(width), drop=DropPath(drop)),
                         local=Residual(Conv(width, width, window, 1, window // 2, groups=width), BatchNorm(width)),
                         mlp=Residual(mlp, BatchNorm(width), drop=DropPath(drop)))

        def stage(i: int, width: int, drop: float) -> Chain:
            down = ConvMerging(width // 2) if i else conv_patches(hidden, dim, in_chans=in_chans)
            return Chain(down=down, blocks=Stack(
                block(width, heads[i], Strided(size=window) if j % 2 else Windows(window), drop)
                for j in range(depths[i])))

        self.stages = nn.ModuleList(stage(i, width, drop) for i, (width, drop) in enumerate(
            zip(self.channels, drop_path_rates(drop_path, len(depths)), strict=True)))
        init.truncated(self)
        for part in self.modules():
            if isinstance(part, Conv):
                nn.init.trunc_normal_(part.weight, std=0.02)
                if part.bias is not None:
                    nn.init.zeros_(part.bias)

    def forward(self, image: Tensor) -> Features:
        return Features(maps=pyramid(image.permute(0, 2, 3, 1), self.stages))

    def make_head(self, classes: int) -> nn.Module:
        """A linear layer on the mean of the last map."""
        return Head(self.channels[-1], classes, mean_map, init_weights=init.truncated_linears)


def _size(params: int, gflops: float, reported: float, top1: float, **args: Any) -> Variant[ShuffleTransformer]:
    return variant(ShuffleTransformer, Figures(params=params, gflops=gflops, where="README of the official repository",
                                               reported={"gflops": reported, "top1": top1}), **args)


shuffle_t = _size(28_532_482, 4.673, 4.6, 82.4)
shuffle_s = _size(50_076_178, 8.967, 8.9, 83.6, depths=(2, 2, 18, 2))
shuffle_b = _size(88_398_560, 15.742, 15.6, 84.0, dim=128, heads=(4, 8, 16, 32), depths=(2, 2, 18, 2))


def official(settings: Mapping[str, Any]) -> Keys:
    """The authors' names: stages from 1, blocks in pairs, and 1 x 1 convolutions for all that is linear."""
    stem = "backbone.stages.0.down."
    table = {"to_token.conv1.0.*": stem + "conv1.*", "to_token.conv1.1.*": stem + "norm1.*",
             "to_token.conv2.0.*": stem + "conv2.*", "to_token.conv2.1.*": stem + "norm2.*",
             "to_token.conv3.*": stem + "proj.*", "head.*": "head.linear.*"}
    rows = []
    for i, depth in enumerate(settings["depths"]):
        table |= {f"stage{i + 1}.patch_partition.norm.*": f"backbone.stages.{i}.down.norm.*",
                  f"stage{i + 1}.patch_partition.reduction.*": f"backbone.stages.{i}.down.reduce.*"}
        for j in range(depth):
            there, here = f"stage{i + 1}.layers.{j // 2}.{j % 2}.", f"backbone.stages.{i}.blocks.{j}."
            rows += [Row((f"{there}{theirs}.weight",), f"{here}{ours}.weight", AS_CONV)
                     for theirs, ours in (("attn.to_qkv", "mix.fn.qkv.proj"), ("attn.proj", "mix.fn.out.proj"),
                                          ("mlp.fc1", "mlp.fn.fc1"), ("mlp.fc2", "mlp.fn.fc2"))]
            table |= {**window_block(there, here), there + "norm2.*": here + "local.norm.*",
                      there + "local.*": here + "local.fn.*", there + "norm3.*": here + "mlp.norm.*"}
    return Keys(table, rows=rows, drop=("stage{}.layers.{}.{}.attn.relative_position_index",))


KEYS = {"official": official}
