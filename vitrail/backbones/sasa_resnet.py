"""A ResNet whose places look at their neighbours in the place of its 3 x 3 convolutions, and if wanted in its stem.

Ramachandran et al., NeurIPS 2019, arXiv:1906.05909. No code was released: what the paper leaves open is said below.
"""
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from vitrail.attention.stand_alone import StandAlone
from vitrail.backbones.resnet import STEM, Bottleneck, Names, ResNetBody, Stem, pooled, torchvision
from vitrail.core.card import Figures, Idea, Paper, Variant, variant
from vitrail.core.keys import AS_CONV, Keys, Row
from vitrail.nn import Attend, BatchNorm, MaxPool, Windows

PAPER = Paper(title="Stand-Alone Self-Attention in Vision Models", arxiv="1906.05909", authors="Ramachandran et al.",
              year=2019, venue="NeurIPS", builds_on=("attention.stand_alone", "backbones.resnet"),
              ideas=(Idea("attention.stand_alone", "section 3.1", "the layer"),
                     Idea("backbones.resnet", "section 3", "the network whose convolutions it replaces")))


class BlockAttention(nn.Module):
    """softmax(q kᵀ) ṽ within window x window blocks, ṽ = Σ_m p(a, b, m) W_m x (section 3.2): the matrix of a value
    is a mixture that depends on the place (a, b) in the block, p = softmax_m((row_a + column_b) · ν_m) (appendix A).

    The mixtures are those of all heads. Open in the paper: there are four, the vectors are as long as a head's, and
    places beyond the edge are zeros that a softmax sees, as in `StandAlone`. (B, H, W, channels) -> (B, H, W, dim).
    """

    def __init__(self, channels: int, dim: int, heads: int, *, window: int, mixtures: int = 4):
        super().__init__()
        self.heads, self.groups = heads, Windows(window)
        self.qk, self.values = nn.Linear(channels, 2 * dim, bias=False), nn.Linear(channels, mixtures * dim, bias=False)
        size = dim // heads
        self.rows, self.columns, self.mixtures = (nn.Parameter(torch.randn(n, size) * size ** -0.5)
                                                  for n in (window, window, mixtures))
        self.attend = Attend()

    def forward(self, x: Tensor) -> Tensor:                                             # (B, H, W, D)
        x, grid = self.groups.split(x), (x.shape[1], x.shape[2])
        q, k = self.qk(x).unflatten(-1, (2, self.heads, -1)).permute(3, 0, 1, 4, 2, 5).unbind(0)    # (B, G, h, n, E)
        places = (self.rows[:, None] + self.columns).flatten(0, 1)                      # (n, E)
        share = (places @ self.mixtures.mT).softmax(-1)                                 # (n, M)
        v = (self.values(x).unflatten(-1, (share.shape[1], -1)) * share[..., None]).sum(-2)     # (B, G, n, C)
        y = self.attend(q, k, v.unflatten(-1, (self.heads, -1)).transpose(-2, -3), scale=1.0)   # (B, G, h, n, E)
        return self.groups.merge(y.transpose(-2, -3).flatten(-2), *grid)


class AttentionStem(nn.Module):
    """Attention within 4 x 4 blocks of the image, a batch norm, and the maximum of each block (section 4.1):
    (B, in_chans, H, W) -> (B, ⌈H/4⌉, ⌈W/4⌉, dim)."""

    def __init__(self, dim: int, *, in_chans: int = 3):
        super().__init__()
        self.attention, self.norm = BlockAttention(in_chans, dim, 4, window=4), BatchNorm(dim)
        self.pool = MaxPool(4, 4)

    def forward(self, image: Tensor) -> Tensor:
        x = self.norm(self.attention(image.permute(0, 2, 3, 1)))                        # (B, H, W, C)
        return self.pool(x)


class SasaResNet(ResNetBody):
    """A ResNet with `StandAlone` in each bottleneck, and a mean over 2 x 2 behind it where the block strides.

    image (B, 3, H, W) -> a map (B, ⌈H/s⌉, ⌈W/s⌉, C) a stage, s = 4, 8, 16, 32. `attention_stem`: no convolution wider
    than one place is left, the paper's full attention.
    """

    def __init__(self, *, dim: int = 64, depths: tuple[int, ...] = (3, 4, 6, 3), heads: int = 8, window: int = 7,
                 attention_stem: bool = False, in_chans: int = 3, drop_path: float = 0.0):
        def block(stage: int, width: int, dim: int, stride: int, drop: float) -> nn.Module:
            middle = pooled(StandAlone(dim, heads, window=window), stride, stride)
            return Bottleneck(width, dim, stride, drop, middle=middle)
        stem = AttentionStem(dim, in_chans=in_chans) if attention_stem else Stem(dim, in_chans=in_chans)
        super().__init__(stem, dim, depths, drop_path, block)
        if attention_stem:
            self.stem_weights = ("patch_embed.attention.qk.weight", "patch_embed.attention.values.weight")


def _size(params: int, gflops: float, params_m: float, reported: float, depths: tuple[int, ...],
          attention_stem: bool = False) -> Variant[SasaResNet]:
    """`gflops` counts no product with a neighbour: these are sums of products of maps, not matrix products."""
    figures = Figures(params=params, gflops=gflops, reported={"params_m": params_m, "gflops": reported},
                      where="table 1, where a multiply-add counts as two")
    return variant(SasaResNet, figures, depths=depths, attention_stem=attention_stem)


sasa_resnet_26 = _size(10_342_632, 2.081, 10.3, 4.5, (1, 2, 4, 1))
sasa_resnet_38 = _size(14_190_632, 2.648, 14.1, 5.7, (2, 3, 5, 2))
sasa_resnet_50 = _size(18_038_632, 3.216, 18.0, 7.0, (3, 4, 6, 3))
sasa_resnet_26_full = _size(10_334_568, 2.123, 10.3, 4.7, (1, 2, 4, 1), True)
sasa_resnet_38_full = _size(14_182_568, 2.691, 14.1, 6.0, (2, 3, 5, 2), True)
sasa_resnet_50_full = _size(18_030_568, 3.259, 18.0, 7.2, (3, 4, 6, 3), True)


def _layer(there: str, here: str) -> Names:
    there, here = there + "0.", here + "mixer."
    return ({there + "rows": here + "rows", there + "columns": here + "columns"},
            [Row((there + "qkv.weight",), here + "qkv.proj.weight", AS_CONV)])


def _keys(settings: Mapping[str, Any]) -> Keys:
    """Nobody released tensors: the names that torchvision's ResNet has with the layer and a mean in the place of conv2,
    and with the stem's attention in that of conv1."""
    attention = {"conv1.*": "backbone.patch_embed.attention.*"}
    return torchvision(settings, _layer, (attention if settings["attention_stem"] else STEM, []))


KEYS = {"torchvision": _keys}
