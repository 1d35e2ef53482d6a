"""MobileNetV2: a block widens, filters each channel by itself, and narrows again without an activation.

Sandler et al., CVPR 2018, arXiv:1801.04381. The inverted residual, which hybrids of convolutions and attention reuse.
"""
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from vitrail.core.card import Figures, Idea, Paper, Variant, Weights, variant
from vitrail.core.errors import ModelError
from vitrail.core.keys import Keys
from vitrail.nn import (DropPath, DroppedMean, Features, Head, Stack, conv_norm, drop_path_rates, init, pyramid,
                        round_width)
from vitrail.nn.names import conv_norm_names

PAPER = Paper(title="MobileNetV2: Inverted Residuals and Linear Bottlenecks", arxiv="1801.04381",
              authors="Sandler et al.", year=2018, venue="CVPR", code="tensorflow/models", license="Apache-2.0",
              ideas=(Idea("mobilenet", "section 3.1", "convolutions, channel by channel"),
                     Idea("backbones.resnet", "section 3.3", "the residual block, turned inside out")))


class InvertedResidual(nn.Module):
    """x + narrow(depthwise(widen(x))), the shortcut between the narrow ends (figure 3b and section 3.3).

    (B, H, W, dim) -> (B, ⌈H/stride⌉, ⌈W/stride⌉, out). `act` follows all but the narrowing, which is linear. Where
    hidden is dim nothing widens; where the shape changes there is no shortcut, and nothing to drop.
    """

    def __init__(self, dim: int, hidden: int, out: int, *, stride: int, act: nn.Module, drop: float):
        super().__init__()
        self.widen = nn.Identity() if hidden == dim else conv_norm(dim, hidden, act=act)
        self.depthwise = conv_norm(hidden, hidden, 3, stride, groups=hidden, act=act)
        self.narrow = conv_norm(hidden, out)
        self.residual, self.drop = stride == 1 and dim == out, DropPath(drop)

    def forward(self, x: Tensor) -> Tensor:
        y = self.narrow(self.depthwise(self.widen(x)))
        return x + self.drop(y) if self.residual else y


# table 2: expansion, channels, and the stride of the first block
ROWS = ((1, 16, 1), (6, 24, 2), (6, 32, 2), (6, 64, 2), (6, 96, 1), (6, 160, 2), (6, 320, 1))
# the last row of each size of map; the last convolution stands behind the very last
LAST = (0, 1, 2, 4)


class MobileNetV2(nn.Module):
    """A convolution of stride 2, seven rows of inverted residuals, and a 1 x 1 convolution (table 2).

    image (B, 3, H, W) -> a map (B, ⌈H/s⌉, ⌈W/s⌉, C) for each size, s = 2, 4, 8, 16, 32, the last one behind the
    convolution. `width` multiplies the channels, which are rounded to multiples of eight; below one it spares the last
    convolution (section 4), and with `fixed_ends` it spares that and the first at any value, as timm's deeper sizes
    have it. depths: blocks a row. The convolutions are born as timm's, with depthwise filters of order one
    (torchvision's are so small that nothing of an image passes before the norms have seen some), the head as
    torchvision's. `dropout` is the head's, and stochastic depth this library's. Raises ModelError unless every row
    has a block.
    """

    stem_weights = ("patch_embed.conv.weight",)

    def __init__(self, *, width: float = 1.0, depths: tuple[int, ...] = (1, 2, 3, 4, 3, 3, 1), fixed_ends: bool = False,
                 dropout: float = 0.2, in_chans: int = 3, drop_path: float = 0.0):
        super().__init__()
        if len(depths) != len(ROWS) or min(depths) < 1:
            raise ModelError(f"depths of {depths}: each of the {len(ROWS)} rows of table 2 needs at least one block")
        act, drops = nn.ReLU6(), iter(drop_path_rates(drop_path, sum(depths)))
        before = 32 if fixed_ends else round_width(32 * width, 8)
        self.patch_embed = conv_norm(in_chans, before, 3, 2, act=act)
        self.rows, ends = nn.ModuleList(), []
        for depth, (expansion, channels, stride) in zip(depths, ROWS, strict=True):
            blocks, out = [], round_width(channels * width, 8)
            for j in range(depth):
                blocks.append(InvertedResidual(before, before * expansion, out, stride=1 if j else stride, act=act,
                                               drop=next(drops)))
                before = out
            self.rows.append(Stack(blocks))
            ends.append(out)
        last = 1280 if fixed_ends else round_width(1280 * max(width, 1.0), 8)
        self.last = conv_norm(before, last, act=act)
        self.channels, self.strides, self.dropout = (*(ends[i] for i in LAST), last), (2, 4, 8, 16, 32), dropout
        init.fan_out_convs(self)

    def forward(self, image: Tensor) -> Features:
        x = self.patch_embed(image.permute(0, 2, 3, 1))                                    # (B, h, w, C)
        maps = pyramid(x, self.rows)
        return Features(maps=(*(maps[i] for i in LAST), self.last(maps[-1])))

    def make_head(self, classes: int) -> nn.Module:
        """A linear layer on the mean of the last map, of whose channels some are dropped."""
        return Head(self.channels[-1], classes, DroppedMean(self.dropout), init_weights=init.normal_linears)


def _timm(name: str, top1: float | None = None) -> Weights:
    """A release of timm's, trained with its own recipe."""
    return Weights(name=name.partition(".")[2], source=f"hf://timm/{name}/model.safetensors", keys="timm",
                   license="Apache-2.0", reported={} if top1 is None else {"top1": top1},
                   where="" if top1 is None else "timm's changes, April 5, 2020")


def _torchvision(name: str, digest: str, top1: float) -> Weights:
    """A release of torchvision's; the second recipe (2021) resizes to 232 before the crop of 224."""
    return Weights(name=name, source=f"https://download.pytorch.org/models/mobilenet_v2-{digest}.pth", keys="official",
                   license="BSD-3-Clause", crop=0.875 if name == "tv_v1" else 224 / 232, interpolation="bilinear",
                   reported={"top1": top1}, where="torchvision.models.MobileNet_V2_Weights")


def _size(width: float, params: int, gflops: float, *weights: Weights, reported: Mapping[str, float] = {},
          **args: Any) -> Variant[MobileNetV2]:
    return variant(MobileNetV2, Figures(params=params, gflops=gflops, reported=reported,
                                        where="table 4" if reported else ""), *weights, width=width, **args)


mobilenetv2_035 = _size(0.35, 1_677_128, 0.059)
mobilenetv2_050 = _size(0.5, 1_968_680, 0.097, _timm("mobilenetv2_050.lamb_in1k"))
mobilenetv2_075 = _size(0.75, 2_636_424, 0.209)
mobilenetv2_100 = _size(1.0, 3_504_872, 0.301, _timm("mobilenetv2_100.ra_in1k", 73.0),
                        _torchvision("tv_v1", "b0353104", 71.878), _torchvision("tv_v2", "7ebf99e0", 72.154),
                        reported={"params_m": 3.4, "gflops": 0.300})
# the paper's 6.9 million parameters are nobody's: timm's and torchvision's networks of this width have 6.1
mobilenetv2_140 = _size(1.4, 6_108_776, 0.582, _timm("mobilenetv2_140.ra_in1k", 76.5),
                        reported={"params_m": 6.9, "gflops": 0.585})
# timm's, deeper as EfficientNets are: 1.2 and 1.4 times the blocks of all rows but the first and the last
mobilenetv2_110d = _size(1.1, 4_516_520, 0.431, _timm("mobilenetv2_110d.ra_in1k", 75.0), depths=(1, 3, 4, 5, 4, 4, 1),
                         fixed_ends=True)
mobilenetv2_120d = _size(1.2, 5_831_144, 0.669, _timm("mobilenetv2_120d.ra_in1k", 77.3), depths=(1, 3, 5, 6, 5, 5, 1),
                         fixed_ends=True)


def _torchvision_names(depths: Sequence[int]) -> dict[str, str]:
    """torchvision counts all blocks through, and the convolutions of a block by number."""
    table: dict[str, str] = {}
    at = 1
    for i, (depth, (expansion, _, _)) in enumerate(zip(depths, ROWS, strict=True)):
        for j in range(depth):
            widen = [("0.0", "0.1", "widen")] if expansion > 1 else []
            n = len(widen)
            table |= conv_norm_names(f"features.{at}.conv.", f"backbone.rows.{i}.{j}.", *widen,
                                     (f"{n}.0", f"{n}.1", "depthwise"), (f"{n + 1}", f"{n + 2}", "narrow"))
            at += 1
    ends = conv_norm_names("features.", "backbone.", ("0.0", "0.1", "patch_embed"), (f"{at}.0", f"{at}.1", "last"))
    return ends | table | {"classifier.1.*": "head.linear.*"}


TIMM = Keys({
    **conv_norm_names("", "backbone.", ("conv_stem", "bn1", "patch_embed"), ("conv_head", "bn2", "last")),
    **conv_norm_names("blocks.0.{}.", "backbone.rows.0.{}.", ("conv_dw", "bn1", "depthwise"),
                      ("conv_pw", "bn2", "narrow")),
    **conv_norm_names("blocks.{}.{}.", "backbone.rows.{}.{}.", ("conv_pw", "bn1", "widen"),
                      ("conv_dw", "bn2", "depthwise"), ("conv_pwl", "bn3", "narrow")),
    "classifier.*": "head.linear.*",
})

KEYS = {"timm": lambda settings: TIMM, "official": lambda settings: Keys(_torchvision_names(settings["depths"]))}
