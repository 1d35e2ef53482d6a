"""SAGAN's discriminator as a backbone: residual blocks under spectral normalisation, and attention on one of its maps.

Zhang et al., ICML 2019, arXiv:1805.08318.
"""
from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.attention.sagan import Sagan, normed
from vitrail.core.card import Figures, Idea, Paper, variant
from vitrail.core.errors import ModelError
from vitrail.core.keys import Keys
from vitrail.nn import AvgPool, Chain, Conv, Features, Head, Residual, Stack, init, pyramid

PAPER = Paper(title="Self-Attention Generative Adversarial Networks", arxiv="1805.08318", authors="Zhang et al.",
              year=2019, venue="ICML", code="brain-research/self-attention-gan", license="Apache-2.0",
              builds_on=("attention.sagan",),
              ideas=(Idea("attention.sagan", "section 3", "the layer"),
                     Idea("gan", "introduction", "generator and discriminator"),
                     Idea("spectral_norm", "section 4.1", "the norm of every weight")))


class HalvingBlock(nn.Module):
    """Two rectified convolutions and a projection, halved alike: (B, H, W, C) -> (B, ⌈H/2⌉, ⌈W/2⌉, dim)."""

    def __init__(self, width: int, dim: int):
        super().__init__()
        self.conv1, self.conv2 = normed(Conv(width, dim, 3, 1, 1)), normed(Conv(dim, dim, 3, 1, 1))
        self.shortcut, self.pool = normed(Conv(width, dim, 1)), AvgPool(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(F.relu(self.conv1(F.relu(x))))                                   # (B, H, W, D)
        return self.pool(self.shortcut(x)) + self.pool(y)


class FirstBlock(HalvingBlock):
    """The block that reads the image, before which nothing is rectified; its shortcut is halved before its matrix."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(F.relu(self.conv1(x)))                                           # (B, H, W, D)
        return self.shortcut(self.pool(x)) + self.pool(y)


class PlainBlock(nn.Module):
    """Two rectified convolutions added to their input, on a map (B, H, W, C)."""

    def __init__(self, dim: int):
        super().__init__()
        self.conv1, self.conv2 = normed(Conv(dim, dim, 3, 1, 1)), normed(Conv(dim, dim, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.relu(self.conv1(F.relu(x))))


def sum_map(f: Features) -> Tensor:
    """The sum of the coarsest map over its places, as the official discriminator reads it: (B, C)."""
    return f.maps[-1].sum((1, 2))


class Discriminator(nn.Module):
    """Five blocks that halve the map, and one behind them that does not; the last map is rectified.

    image (B, 3, H, W) -> a map (B, ⌈H/s⌉, ⌈W/s⌉, C) a stage, s = 2, 4, 8, 16, 32. attention_stage: the stage (from 0)
    behind which the attention stands; 1 sees 32 x 32 places of the published 128 x 128 pixels ("feat32", table 1).
    The official sizes are powers of two; elsewhere the mean at an odd edge is that of the places that are there.
    In training every call takes one step of power iteration towards each largest singular value. Raises ModelError
    where there is no such stage.
    """

    def __init__(self, *, dim: int = 64, attention_stage: int = 1, in_chans: int = 3):
        super().__init__()
        self.channels = tuple(dim * times for times in (1, 2, 4, 8, 16))
        self.strides = (2, 4, 8, 16, 32)
        if attention_stage not in range(len(self.channels)):
            raise ModelError(f"attention_stage={attention_stage}: the stages are 0 to {len(self.channels) - 1}")

        def stage(i: int) -> Chain:
            first = HalvingBlock(self.channels[i - 1], self.channels[i]) if i else FirstBlock(in_chans, dim)
            last = i == len(self.channels) - 1
            return Chain(blocks=Stack([first, PlainBlock(self.channels[i])] if last else [first]),
                         attention=Residual(Sagan(self.channels[i], 1), nn.Identity()) if i == attention_stage
                         else nn.Identity(), act=nn.ReLU() if last else nn.Identity())
        self.stages = nn.ModuleList(stage(i) for i in range(len(self.channels)))

    def forward(self, image: Tensor) -> Features:
        x = image.permute(0, 2, 3, 1)                                                   # (B, H, W, C)
        return Features(maps=pyramid(x, self.stages))

    def make_head(self, classes: int) -> nn.Module:
        """A linear layer on the sum of the last map; the official one, under spectral normalisation, judges one label
        that it is given."""
        return Head(self.channels[-1], classes, sum_map, init_weights=init.xavier_linears)


sagan_discriminator = variant(Discriminator, Figures(params=39_463_593, gflops=4.749, image=128))
sagan_discriminator_feat64 = variant(Discriminator, Figures(params=39_448_233, gflops=4.984, image=128),
                                     attention_stage=0)


def official(settings: Mapping[str, Any]) -> Keys:
    """The official scopes (`model/` left out), each layer with the names of torch's spectral normalisation. The
    released code writes no tensors that torch could read: this says which layer is which."""
    table = {"head.*": "head.linear.*"}
    layers = {"sn_conv1": "conv1", "sn_conv2": "conv2", "sn_conv3": "shortcut"}
    blocks = {"d_optimized_block1": "0.blocks.0", **{f"d_block{i + 1}": f"{i}.blocks.0" for i in range(1, 5)},
              "d_block6": "4.blocks.1"}
    for scope, block in blocks.items():
        table |= {f"{scope}.{name}.*": f"backbone.stages.{block}.{layer}.*" for name, layer in layers.items()
                  if (scope, name) != ("d_block6", "sn_conv3")}
    here = f"backbone.stages.{settings['attention_stage']}.attention.fn."
    names = {"sn_conv_theta": "f", "sn_conv_phi": "g", "sn_conv_g": "h", "sn_conv_attn": "v"}
    table |= {f"d_non_local.{name}.*": f"{here}{matrix}.*" for name, matrix in names.items()}
    return Keys(table | {"d_non_local.sigma_ratio": f"{here}gain"})


KEYS = {"official": official}
