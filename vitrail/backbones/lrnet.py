"""A ResNet without a convolution wider than one place: local relation layers compose each place from its neighbours.

Hu et al., ICCV 2019, arXiv:1904.11491. The networks were not released: what we could not confirm is said below.
"""
import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from vitrail.attention.local_relation import LocalRelation
from vitrail.backbones.resnet import Bottleneck, Names, ResNetBody, torchvision
from vitrail.core.card import Figures, Idea, Paper, Variant, variant
from vitrail.core.keys import AS_CONV, Keys, Row
from vitrail.nn import BatchNorm, Chain, Conv, MaxPool

PAPER = Paper(title="Local Relation Networks for Image Recognition", arxiv="1904.11491", authors="Hu et al.",
              year=2019, venue="ICCV", code="microsoft/Swin-Transformer", license="MIT",
              builds_on=("attention.local_relation", "backbones.resnet"),
              ideas=(Idea("attention.local_relation", "method", "the layer"),
                     Idea("backbones.resnet", "method", "the network whose convolutions it replaces")))
# m of the paper: so many neighbouring channels have their weights in common
SHARED = 8


class Every(nn.Module):
    """Every stride-th place of a map, from the first: (B, H, W, C) -> (B, ⌈H/stride⌉, ⌈W/stride⌉, C)."""

    def __init__(self, stride: int):
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return x[:, ::self.stride, ::self.stride]


def relation(dim: int, window: int, stride: int) -> Chain:
    """A local relation layer that strides: the places it skips are left out of its result.

    Where 8 does not divide dim, as at the 100 channels of the first stage, the largest common divisor share weights.
    """
    return Chain(mixer=LocalRelation(dim, dim // math.gcd(dim, SHARED), window=window),
                 every=Every(stride) if stride > 1 else nn.Identity())


class RelationStem(nn.Module):
    """A matrix from colours to channels, and a local relation layer in the place of ResNet's 7 x 7 convolution:
    (B, in_chans, H, W) -> (B, ⌈H/4⌉, ⌈W/4⌉, dim)."""

    def __init__(self, dim: int, window: int, *, in_chans: int = 3):
        super().__init__()
        self.conv, self.relation = Conv(in_chans, dim, 1, bias=False), relation(dim, window, 2)
        self.norm, self.act, self.pool = BatchNorm(dim), nn.ReLU(), MaxPool(3, 2)

    def forward(self, image: Tensor) -> Tensor:
        x = self.relation(self.conv(image.permute(0, 2, 3, 1)))                         # (B, h, w, C)
        return self.pool(self.act(self.norm(x)))


class LRNet(ResNetBody):
    """A ResNet with `LocalRelation` in each bottleneck and in the stem.

    image (B, 3, H, W) -> a map (B, ⌈H/s⌉, ⌈W/s⌉, C) a stage, s = 4, 8, 16, 32. inner: the channels within the first
    stage's bottlenecks, which double with each stage. A relation costs less than the convolution that it replaces, so
    bottlenecks are wider within than ResNet's: 100 gives the reported parameters of LR-Net-50. The paper's parts that
    stay open are those of `LocalRelation`. Not confirmed by any source that we could read: the stem's form (here no
    norm stands between its two layers), that width, and the depths.
    """

    def __init__(self, *, dim: int = 64, inner: int = 100, depths: tuple[int, ...] = (3, 4, 6, 3), window: int = 7,
                 in_chans: int = 3, drop_path: float = 0.0):
        def block(stage: int, width: int, dim: int, stride: int, drop: float) -> nn.Module:
            within = inner << stage
            return Bottleneck(width, within, stride, drop, middle=relation(within, window, stride),
                              out=dim * Bottleneck.expansion)
        super().__init__(RelationStem(dim, window, in_chans=in_chans), dim, depths, drop_path, block)


def _size(params: int, gflops: float, depths: tuple[int, ...], reported: Mapping[str, float] | None = None,
          where: str = "") -> Variant[LRNet]:
    """`gflops` counts no product with a neighbour, and all places of a layer that strides."""
    return variant(LRNet, Figures(params=params, gflops=gflops, reported=dict(reported or {}), where=where),
                   depths=depths)


# (2, 2, 2, 2) are the depths of 26 layers whose parameters come nearest to the report; of 101 layers we found none
lrnet_26 = _size(14_609_224, 2.776, (2, 2, 2, 2), {"params_m": 14.7, "gflops": 2.6},
                 "paperswithcode.com's entry of the paper")
lrnet_50 = _size(23_375_481, 4.382, (3, 4, 6, 3), {"params_m": 23.3, "gflops": 4.3},
                 "the table of ImageNet results in arXiv:2003.07853")
lrnet_101 = _size(40_787_663, 7.779, (3, 4, 23, 3))


def _mixer(there: str, here: str) -> Names:
    """A relation whose linear layers are 1 x 1 convolutions there."""
    return ({f"{there}prior.*": f"{here}prior.*", f"{there}qk.bias": f"{here}qk.bias",
             f"{there}out.bias": f"{here}out.bias"},
            [Row((f"{there}{part}.weight",), f"{here}{part}.weight", AS_CONV) for part in ("qk", "out")])


def _keys(settings: Mapping[str, Any]) -> Keys:
    """Nobody released tensors: the names that torchvision's ResNet has with the layer in the place of conv2, and with
    the matrix and the layer in that of conv1."""
    stem, rows = _mixer("conv1.1.", "backbone.patch_embed.relation.mixer.")
    return torchvision(settings, lambda there, here: _mixer(there, here + "mixer."),
                       ({"conv1.0.*": "backbone.patch_embed.conv.*", **stem}, rows))


KEYS = {"torchvision": _keys}
