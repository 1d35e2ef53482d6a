"""Shuffle Transformer: every other block shuffles the map, so that a window holds tokens from all over it.

What stands between the windows is joined by a depthwise convolution. Huang et al., arXiv:2106.03650.
"""
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from vitrail.core.card import Figures, Paper, Variant, variant
from vitrail.core.keys import AS_CONV, Keys, Row
from vitrail.nn import (Attend, BatchNorm, Chain, Conv, DropPath, Features, Merge, Mlp, Readout, RelativeBias, Residual,
                        Split, Stack, Strided, Windows, init, mean_map, pyramid, ramp)
from vitrail.ops.windows import pad_to

PAPER = Paper(title="Shuffle Transformer: Rethinking Spatial Shuffle for Vision Transformer", arxiv="2106.03650",
              authors="Huang et al.", year=2021, code="mulinmeng/Shuffle-Transformer", license="MIT")


class ShuffleAttention(nn.Module):
    """Self-attention inside windows, or inside groups of as many tokens that stand apart, with a learned bias for each
    offset (section 3.2): (B, H, W, C) -> same.

    Offsets are counted in tokens of the group. Queries, keys and values have no bias.
    """

    def __init__(self, dim: int, heads: int, groups: Windows | Strided):
        super().__init__()
        self.groups = groups
        self.qkv, self.attend, self.out = Split(dim, heads, 3, bias=False), Attend(), Merge(dim)
        self.bias = RelativeBias(groups.size, heads)

    def forward(self, x: Tensor) -> Tensor:                                 # (B, H, W, C)
        H, W = x.shape[1:3]
        q, k, v = self.qkv(self.groups.split(x))                            # (B, G, h, n, D)
        return self.groups.merge(self.out(self.attend(q, k, v, self.bias())), H, W)


class ConvMerging(nn.Module):
    """A batch norm, and four neighbours become one token: (B, H, W, C) -> (B, ⌈H/2⌉, ⌈W/2⌉, 2C). An odd side gets a
    row of zeros."""

    def __init__(self, dim: int):
        super().__init__()
        self.norm, self.reduce = BatchNorm(dim), Conv(dim, 2 * dim, 2, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.reduce(pad_to(self.norm(x), 2))


class ConvPatches(nn.Module):
    """Two convolutions of stride 2 and a projection: image (B, 3, H, W) -> (B, ⌈H/4⌉, ⌈W/4⌉, C)."""

    def __init__(self, hidden: int, dim: int):
        super().__init__()
        self.conv1, self.norm1 = Conv(3, hidden, 3, 2, 1), BatchNorm(hidden)
        self.conv2, self.norm2 = Conv(hidden, dim, 3, 2, 1), BatchNorm(dim)
        self.act, self.proj = nn.ReLU6(), Conv(dim, dim, 1)

    def forward(self, image: Tensor) -> Tensor:
        x = self.act(self.norm1(self.conv1(image.permute(0, 2, 3, 1))))     # (B, h, w, D)
        return self.proj(self.act(self.norm2(self.conv2(x))))


class ShuffleTransformer(nn.Module):
    """Four stages of blocks (section 3.3): attention, a depthwise convolution as large as a window, an Mlp with ReLU6.

    image (B, 3, H, W) -> a map (B, ⌈H/s⌉, ⌈W/s⌉, C) a stage, s = 4, 8, 16, ... . All norms are batch norms, and none
    stands behind the last block. Odd blocks shuffle. hidden: channels between the convolutions that read the image.
    Stochastic depth grows from stage to stage, and spares the convolutions, as released.
    """

    def __init__(self, *, dim: int = 96, hidden: int = 32, depths: tuple[int, ...] = (2, 2, 6, 2),
                 heads: tuple[int, ...] = (3, 6, 12, 24), window: int = 7, mlp_ratio: float = 4.0,
                 drop_path: float = 0.0):
        super().__init__()
        if len(depths) != len(heads):
            raise ValueError(f"{len(depths)} depths and {len(heads)} numbers of heads: each stage needs one of both")
        if window % 2 == 0:
            raise ValueError(f"a window of {window}: the depthwise convolution is as large, and needs an odd size")
        self.widths = tuple(dim << i for i in range(len(depths)))
        self.strides = tuple(4 << i for i in range(len(depths)))

        def block(width: int, heads: int, groups: Windows | Strided, drop: float) -> Chain:
            mlp = Mlp(width, int(width * mlp_ratio), nn.ReLU6)
            return Chain(mix=Residual(ShuffleAttention(width, heads, groups), BatchNorm(width), drop=DropPath(drop)),
                         local=Residual(Conv(width, width, window, 1, window // 2, groups=width), BatchNorm(width)),
                         mlp=Residual(mlp, BatchNorm(width), drop=DropPath(drop)))

        def stage(i: int, width: int, drop: float) -> Chain:
            return Chain(down=ConvMerging(width // 2) if i else ConvPatches(hidden, dim), blocks=Stack(
                block(width, heads[i], Strided(size=window) if j % 2 else Windows(window), drop)
                for j in range(depths[i])))

        self.stages = nn.ModuleList(stage(i, width, drop) for i, (width, drop) in enumerate(
            zip(self.widths, ramp(drop_path, len(depths)), strict=True)))
        init.truncated_linears(self)
        for part in self.modules():
            if isinstance(part, Conv):
                nn.init.trunc_normal_(part.weight, std=0.02)
                if part.bias is not None:
                    nn.init.zeros_(part.bias)
            elif isinstance(part, RelativeBias):
                nn.init.trunc_normal_(part.table, std=0.02)

    def forward(self, image: Tensor) -> Features:
        return Features(maps=pyramid(image, self.stages))

    def readout(self, classes: int) -> nn.Module:
        """A linear layer on the mean of the last map."""
        return Readout(self.widths[-1], classes, mean_map, born=init.truncated_linears)


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
            table |= {
                there + "norm1.*":                              here + "mix.norm.*",
                there + "attn.proj.bias":                       here + "mix.fn.out.proj.bias",
                there + "attn.relative_position_bias_table":    here + "mix.fn.bias.table",
                there + "norm2.*":                              here + "local.norm.*",
                there + "local.*":                              here + "local.fn.*",
                there + "norm3.*":                              here + "mlp.norm.*",
                there + "mlp.*":                                here + "mlp.fn.*",
            }
    return Keys(table, rows=rows, drop=("stage{}.layers.{}.{}.attn.relative_position_index",))


KEYS = {"official": official}
