"""Residual networks for small pictures, with convolution or attention in their middles."""
from collections.abc import Callable
from functools import partial

from torch import Tensor, nn

from vitrail.attention.attention_augmented import AttentionAugmented
from vitrail.backbones.resnet import Bottleneck, stages
from vitrail.evidence.learning.loop import SIZE, Make
from vitrail.nn import AvgPool, Chain, conv_norm, init


class Bottlenecks(nn.Module):
    """A ResNet for small images: one convolution with stride 2, then a bottleneck in each of three stages.

    middle: of (channels, side of the map), what stands in the place of the 3 x 3 convolution; a stage that halves the
    map takes a mean over 3 x 3 places before it, whatever it is. (B, 3, H, W) -> (B, classes).
    """

    def __init__(self, classes: int, middle: Callable[[int, int], nn.Module], *, dim: int):
        super().__init__()

        def block(stage: int, width: int, dim: int, stride: int, drop: float) -> nn.Module:
            looks = middle(dim, -(-SIZE // (2 << stage)))
            return Bottleneck(width, dim, stride, drop, middle=Chain(AvgPool(3, 2), looks) if stride > 1 else looks)
        self.stem = conv_norm(3, dim, 3, 2, act=nn.ReLU())
        self.stages = stages(dim, (1, 1, 1), Bottleneck.expansion, 0.0, block)
        self.linear = nn.Linear(4 * dim * Bottleneck.expansion, classes)
        init.kaiming_convs(self)

    def forward(self, image: Tensor) -> Tensor:
        x = self.stem(image.permute(0, 2, 3, 1))                        # (B, h, w, C)
        for stage in self.stages:
            x = stage(x)
        return self.linear(x.mean((1, 2)))


def bottlenecks(share: float, classes: int, *, dim: int = 24) -> nn.Module:
    """`share` of the channels between a bottleneck's ends come from attention, the rest from a 3 x 3 convolution."""
    def middle(dim: int, side: int) -> nn.Module:
        return AttentionAugmented(dim, 4, grid=(side, side), keys=dim // 2, values=int(share * dim))
    return Bottlenecks(classes, middle, dim=dim)


def resnet(dim: int) -> Make:
    """Bottlenecks of 4, 8 and 16 times dim channels, all of convolution."""
    return partial(bottlenecks, 0.0, dim=dim)
