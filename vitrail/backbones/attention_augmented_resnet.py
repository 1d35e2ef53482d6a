"""AA-ResNet: in the last three stages of a ResNet, some channels of each 3 x 3 convolution come from attention.

Bello et al., ICCV 2019, arXiv:1904.09925. The paper lists the code of the layer without a stride; the sizes that it
states fix the shares (`channels`), the costs that it states fix where attention sees a smaller map.
"""
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.attention.attention_augmented import RelativeAttention2d
from vitrail.backbones.resnet import Bottleneck, Names, ResNetBody, Stem, torchvision
from vitrail.core.card import Figures, Idea, Paper, Variant, variant
from vitrail.core.keys import AS_CONV, Row
from vitrail.nn import AvgPool, Conv, Elsewhere, grid_of

PAPER = Paper(title="Attention Augmented Convolutional Networks", arxiv="1904.09925", authors="Bello et al.", year=2019,
              venue="ICCV", builds_on=("attention.attention_augmented", "backbones.resnet"),
              ideas=(Idea("attention.attention_augmented", "section 3.2", "the layer"),
                     Idea("backbones.resnet", "experiments", "the network whose convolutions it augments")))


def channels(dim: int, heads: int) -> tuple[int, int]:
    """Keys and values of dim channels: κ = 0.2 of them, but 20 a head at least, and υ = 0.1, in whole heads.

    Raises ValueError where there is no head, or where the values take all channels.
    """
    if heads < 1 or heads >= dim:
        raise ValueError(f"{heads} heads cannot share {dim} channels with a convolution")
    return heads * max(dim // 5 // heads, 20), heads * max(dim // 10 // heads, 1)


class AugmentedConv(nn.Module):
    """[conv(x), attention(x)], with a stride: (B, H, W, dim) -> (B, ⌈H/stride⌉, ⌈W/stride⌉, dim).

    Attention sees a mean over 3 x 3 places with the convolution's stride, and, where it is `halved`, one more with a
    stride of 2, behind which it is interpolated to the convolution's map (section 3.2). `grid` is the map it sees.
    """

    def __init__(self, dim: int, heads: int, *, grid: tuple[int, int], stride: int, halved: bool):
        super().__init__()
        keys, values = channels(dim, heads)
        self.conv = Conv(dim, dim - values, 3, stride, 1)
        self.pool = AvgPool(3, 2) if stride > 1 else nn.Identity()
        self.halve = AvgPool(3, 2) if halved else nn.Identity()
        self.attention = RelativeAttention2d(dim, heads, grid=grid, keys=keys, values=values)
        self.attention.groups = Elsewhere("all places, and by convolution at its neighbours once more")
        for part in (self.attention.kqv, self.attention.out.proj):
            nn.init.xavier_uniform_(part.weight)
            nn.init.zeros_(part.bias)

    def forward(self, x: Tensor) -> Tensor:                                             # (B, H, W, C)
        near = self.conv(x)                                                             # (B, h, w, K)
        far = self.attention(self.halve(self.pool(x)))
        if not isinstance(self.halve, nn.Identity):
            size = (near.shape[1], near.shape[2])
            far = F.interpolate(far.permute(0, 3, 1, 2), size, mode="bilinear", align_corners=False).permute(0, 2, 3, 1)
        return torch.cat([near, far], -1)                                               # (B, h, w, C)


class AttentionAugmentedResNet(ResNetBody):
    """A ResNet with `AugmentedConv` in the bottlenecks of all stages but the first; in the second, whose maps are the
    largest with attention, it sees them halved.

    image (B, 3, H, W) -> a map (B, ⌈H/s⌉, ⌈W/s⌉, C) a stage, s = 4, 8, 16, 32. The tables of offsets are of `image`;
    for other sizes they are resampled.
    """

    def __init__(self, *, image: int | tuple[int, int] = 224, dim: int = 64, depths: tuple[int, ...] = (3, 4, 6, 3),
                 heads: int = 8, in_chans: int = 3, drop_path: float = 0.0):
        def block(stage: int, width: int, dim: int, stride: int, drop: float) -> nn.Module:
            if not stage:
                return Bottleneck(width, dim, stride, drop)
            grid = grid_of(image, (4 << stage) * (2 if stage == 1 else 1))
            middle = AugmentedConv(dim, heads, grid=grid, stride=stride, halved=stage == 1)
            return Bottleneck(width, dim, stride, drop, middle=middle)
        super().__init__(Stem(dim, in_chans=in_chans), dim, depths, drop_path, block)


def _size(params: int, gflops: float, reported: Mapping[str, float],
          depths: tuple[int, ...]) -> Variant[AttentionAugmentedResNet]:
    """`gflops` counts the zeros by which the fused kernel evens the widths of queries and values."""
    return variant(AttentionAugmentedResNet,
                   Figures(params=params, gflops=gflops, reported=reported,
                           where="the table of ImageNet, where a multiply-add counts as two"), depths=depths)


aa_resnet_50 = _size(25_817_456, 4.444, {"params_m": 25.8, "gflops": 8.3}, (3, 4, 6, 3))
aa_resnet_101 = _size(45_404_992, 8.798, {"params_m": 45.4, "gflops": 16.1}, (3, 4, 23, 3))
aa_resnet_152 = _size(61_641_424, 13.130, {}, (3, 8, 36, 3))


def _layer(there: str, here: str) -> Names:
    """The first stage has none: its rows match nothing."""
    table = {there + "conv.*": here + "conv.*", there + "key_rel_h": here + "attention.position.rows",
             there + "key_rel_w": here + "attention.position.columns",
             there + "kqv.bias": here + "attention.kqv.bias", there + "attn_out.bias": here + "attention.out.proj.bias"}
    return table, [Row((there + "kqv.weight",), here + "attention.kqv.weight", AS_CONV),
                   Row((there + "attn_out.weight",), here + "attention.out.proj.weight", AS_CONV)]


# nobody released tensors: the names that torchvision's ResNet has with the paper's layer in the place of conv2
KEYS = {"torchvision": lambda settings: torchvision(settings, _layer)}
