"""ResNet: each block learns what to add to its input. The convolutional baseline, and a teacher for transformers.

He et al., CVPR 2016, arXiv:1512.03385. As everybody trains it since Goyal et al., arXiv:1706.02677: a bottleneck
halves the map in its 3 x 3 convolution ("v1.5"), and the last scale of every branch is born zero.
"""
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.core.card import Figures, Idea, Paper, Variant, Weights, variant
from vitrail.core.keys import Keys, Row
from vitrail.nn import (AvgPool, BatchNorm, Chain, Conv, DropPath, Features, MaxPool, Head, Stack, conv_norm, init,
                        mean_map, pyramid, drop_path_rates)

PAPER = Paper(title="Deep Residual Learning for Image Recognition", arxiv="1512.03385", authors="He et al.", year=2016,
              venue="CVPR", code="KaimingHe/deep-residual-networks", license="MIT",
              ideas=(Idea("highway", "related work", "shortcuts past layers, there with gates"),
                     Idea("vgg", "section 3.3", "the plain network of 3 x 3 convolutions"),
                     Idea("batch_norm", "section 3.4", "a norm after each convolution")))


class Stem(nn.Module):
    """A 7 x 7 convolution and a maximum over 3 x 3, each with stride 2: (B, in_chans, H, W) -> (B, ⌈H/4⌉, ⌈W/4⌉, C)."""

    def __init__(self, dim: int, *, in_chans: int = 3, act: nn.Module | None = None):
        super().__init__()
        self.conv, self.norm, self.act = Conv(in_chans, dim, 7, 2, 3, bias=False), BatchNorm(dim), act or nn.ReLU()
        self.pool = MaxPool(3, 2)

    def forward(self, image: Tensor) -> Tensor:
        x = self.act(self.norm(self.conv(image.permute(0, 2, 3, 1))))                   # (B, h, w, C)
        return self.pool(x)


def shortcut(width: int, out: int, stride: int) -> nn.Module:
    """The way past a block: the identity, or a projection where the shape changes (option B of section 4.1)."""
    if stride == 1 and width == out:
        return nn.Identity()
    return conv_norm(width, out, 1, stride)


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions (figure 5, left), on a map (B, H, W, C)."""

    expansion = 1

    def __init__(self, width: int, dim: int, stride: int, drop: float):
        super().__init__()
        self.conv1, self.norm1 = Conv(width, dim, 3, stride, 1, bias=False), BatchNorm(dim)
        self.conv2, self.norm2 = Conv(dim, dim, 3, 1, 1, bias=False), BatchNorm(dim)
        self.shortcut, self.drop = shortcut(width, dim, stride), DropPath(drop)
        nn.init.zeros_(self.norm2.weight)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        return F.relu(self.shortcut(x) + self.drop(y))


class Bottleneck(nn.Module):
    """A 3 x 3 convolution between two of 1 x 1 that narrow and widen (figure 5, right), on a map (B, H, W, C).

    middle: what stands in the place of the 3 x 3 convolution, (B, H, W, dim) -> (B, ⌈H/stride⌉, ⌈W/stride⌉, dim).
    act: the activation, in the place of ReLU. squeeze: what weighs the branch, on `out` channels. past: the way past
    the block, in the place of `shortcut`. out: the channels behind it, 4 dim where nothing is said.
    """

    expansion = 4

    def __init__(self, width: int, dim: int, stride: int, drop: float, *, middle: nn.Module | None = None,
                 act: nn.Module | None = None, squeeze: nn.Module | None = None, past: nn.Module | None = None,
                 out: int = 0):
        super().__init__()
        out = out or dim * self.expansion
        self.conv1, self.norm1 = Conv(width, dim, 1, bias=False), BatchNorm(dim)
        self.conv2, self.norm2 = middle or Conv(dim, dim, 3, stride, 1, bias=False), BatchNorm(dim)
        self.conv3, self.norm3 = Conv(dim, out, 1, bias=False), BatchNorm(out)
        self.act, self.squeeze = act or nn.ReLU(), squeeze or nn.Identity()
        self.shortcut, self.drop = past or shortcut(width, out, stride), DropPath(drop)
        nn.init.zeros_(self.norm3.weight)

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.norm1(self.conv1(x)))
        y = self.act(self.norm2(self.conv2(y)))
        y = self.squeeze(self.norm3(self.conv3(y)))
        return self.act(self.shortcut(x) + self.drop(y))


def pooled(mixer: nn.Module, size: int, stride: int) -> Chain:
    """A `middle` of attention: where the block strides, a mean over size x size places behind it."""
    return Chain(mixer=mixer, pool=AvgPool(size, stride) if stride > 1 else nn.Identity())


Make = Callable[[int, int, int, int, float], nn.Module]


def stages(dim: int, depths: Sequence[int], expansion: int, drop_path: float, block: Make) -> nn.ModuleList:
    """A stack of blocks a stage; the first block of each but the first stage halves the map, and dim doubles.

    block: makes one from (stage, width, dim, stride, drop): the channels that it is given, and those within.
    """
    drops = iter(drop_path_rates(drop_path, sum(depths)))

    def stage(i: int) -> Stack:
        before = (dim << i - 1) * expansion if i else dim
        return Stack(block(i, (dim << i) * expansion if j else before, dim << i, 2 if i and not j else 1, next(drops))
                     for j in range(depths[i]))
    return nn.ModuleList(stage(i) for i in range(len(depths)))


def linear_head(dim: int, classes: int) -> Head:
    """A linear layer on the mean of the last map, of deviation 0.01 (Goyal et al., section 5.1)."""
    return Head(dim, classes, mean_map, init_weights=init.normal_linears)


class ResNetBody(nn.Module):
    """What all ResNets are: a stem that leaves a quarter of an image's side, and stages, each after the first at half
    the size and twice the width. A paper says what a block is.

    image (B, 3, H, W) -> a map (B, ⌈H/s⌉, ⌈W/s⌉, C) a stage, s = 4, 8, 16, 32. block: see `stages`. init_weights: gives
    a network its first weights.
    """

    strides: tuple[int, ...]
    stem_weights: tuple[str, ...] = ("patch_embed.conv.weight",)

    def __init__(self, stem: nn.Module, dim: int, depths: Sequence[int], drop_path: float, block: Make, *,
                 expansion: int = Bottleneck.expansion, init_weights: Callable[[nn.Module], None] = init.kaiming_convs):
        super().__init__()
        self.channels = tuple((dim << i) * expansion for i in range(len(depths)))
        self.strides = tuple(4 << i for i in range(len(depths)))
        self.patch_embed, self.stages = stem, stages(dim, depths, expansion, drop_path, block)
        init_weights(self)

    def forward(self, image: Tensor) -> Features:
        return Features(maps=pyramid(self.patch_embed(image), self.stages))

    def make_head(self, classes: int) -> nn.Module:
        return linear_head(self.channels[-1], classes)


class ResNet(ResNetBody):
    """Four stages of residual blocks (table 1), of two convolutions each, or of three with a `bottleneck`."""

    def __init__(self, *, dim: int = 64, depths: tuple[int, ...] = (3, 4, 6, 3), bottleneck: bool = True,
                 in_chans: int = 3, drop_path: float = 0.0):
        block: type[BasicBlock] | type[Bottleneck] = Bottleneck if bottleneck else BasicBlock
        super().__init__(Stem(dim, in_chans=in_chans), dim, depths, drop_path, lambda stage, *args: block(*args),
                         expansion=block.expansion)


def _torchvision(depth: int, name: str, digest: str, top1: float) -> Weights:
    """A release of torchvision; the second recipe (2021) resizes to 232 before the crop of 224."""
    return Weights(name=name, source=f"https://download.pytorch.org/models/resnet{depth}-{digest}.pth", keys="official",
                   license="BSD-3-Clause", crop=0.875 if name == "tv_v1" else 224 / 232, interpolation="bilinear",
                   reported={"top1": top1}, where=f"torchvision.models.ResNet{depth}_Weights")


def _size(depth: int, params: int, gflops: float, v1: tuple[str, float], v2: tuple[str, float] | None = None,
          a1: float | None = None, **args: Any) -> Variant[ResNet]:
    weights = [
        # Wightman et al., "ResNet strikes back", arXiv:2110.00476
        Weights(name="a1_in1k", source=f"hf://timm/resnet{depth}.a1_in1k/model.safetensors", keys="timm",
                license="Apache-2.0", crop=0.95, reported={} if a1 is None else {"top1": a1},
                where="" if a1 is None else "abstract of arXiv:2110.00476"),
        Weights(name="tv_in1k", source=f"hf://timm/resnet{depth}.tv_in1k/model.safetensors", keys="timm",
                license="BSD-3-Clause", crop=0.875, interpolation="bilinear", reported={"top1": v1[1]},
                where=f"torchvision.models.ResNet{depth}_Weights"),
        _torchvision(depth, "tv_v1", *v1)]
    if v2 is not None:
        weights.append(_torchvision(depth, "tv_v2", *v2))
    return variant(ResNet, Figures(params=params, gflops=gflops), *weights, **args)


resnet18 = _size(18, 11_689_512, 1.814, ("f37072fd", 69.758), depths=(2, 2, 2, 2), bottleneck=False)
resnet34 = _size(34, 21_797_672, 3.664, ("b627a593", 73.314), depths=(3, 4, 6, 3), bottleneck=False)
resnet50 = _size(50, 25_557_032, 4.089, ("0676ba61", 76.130), ("11ad3fa6", 80.858), a1=80.4, depths=(3, 4, 6, 3))
resnet101 = _size(101, 44_549_160, 7.801, ("63fe2227", 77.374), ("cd907fc2", 81.886), depths=(3, 4, 23, 3))
resnet152 = _size(152, 60_192_808, 11.514, ("394f9c45", 78.312), ("f82ba261", 82.284), depths=(3, 8, 36, 3))


def stage_keys(i: int) -> dict[str, str]:
    """torchvision's names in a stage, and ours."""
    there, here = f"layer{i + 1}.{{}}.", f"backbone.stages.{i}.{{}}."
    table = {there + "downsample.0.*": here + "shortcut.conv.*", there + "downsample.1.*": here + "shortcut.norm.*"}
    for n in (1, 2, 3):
        table |= {f"{there}conv{n}.*": f"{here}conv{n}.*", f"{there}bn{n}.*": f"{here}norm{n}.*"}
    return table


Names = tuple[dict[str, str], list[Row]]
STEM = {"conv1.*": "backbone.patch_embed.conv.*"}


def torchvision(settings: Mapping[str, Any], middle: Callable[[str, str], Names] = lambda there, here: ({}, []),
                stem: Names = (STEM, [])) -> Keys:
    """torchvision's names, which timm keeps. middle: those of what stands in the place of conv2, below that name there
    and here; stem: of what stands in the place of conv1."""
    table, rows = {**stem[0], "bn1.*": "backbone.patch_embed.norm.*", "fc.*": "head.linear.*"}, stem[1]
    for i in range(len(settings["depths"])):
        names, more = middle(f"layer{i + 1}.{{}}.conv2.", f"backbone.stages.{i}.{{}}.conv2.")
        table, rows = {**table, **names, **stage_keys(i)}, rows + more
    return Keys(table, rows=rows)


KEYS = {"timm": torchvision, "official": torchvision}
