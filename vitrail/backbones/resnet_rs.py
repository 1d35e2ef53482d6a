"""ResNet-RS: a ResNet with the improvements of its time, made larger by depth and image, not by width.

Bello et al., NeurIPS 2021, arXiv:2103.07579. The convolutions of a ResNet-D (He et al., arXiv:1812.01187, section 4)
without its maximum, and squeeze-and-excitation (Hu et al., arXiv:1709.01507) behind each branch.
"""
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from vitrail.backbones.resnet import Bottleneck, ResNetBody, shortcut
from vitrail.core.card import Figures, Idea, Paper, Variant, Weights, variant
from vitrail.core.keys import Keys
from vitrail.nn import AvgPool, Chain, Conv, DroppedMean, Head, SqueezeExcite, conv_norm, init
from vitrail.nn.names import conv_norm_names

PAPER = Paper(title="Revisiting ResNets: Improved Training and Scaling Strategies", arxiv="2103.07579",
              authors="Bello et al.", year=2021, venue="NeurIPS", code="tensorflow/tpu", license="Apache-2.0",
              builds_on=("backbones.resnet",),
              ideas=(Idea("backbones.resnet", "abstract", "the network that it trains anew"),
                     Idea("bag_of_tricks", "method", "the ResNet-D stem and shortcuts"),
                     Idea("squeeze_excite", "method", "gates on the channels"),
                     Idea("efficientnet", "introduction", "scaling as part of a design")))


class DeepStem(nn.Module):
    """Three 3 x 3 convolutions, the first with stride 2, and `pool`, which halves the map again:
    (B, in_chans, H, W) -> (B, ⌈H/4⌉, ⌈W/4⌉, dims[-1]) (ResNet-C of arXiv:1812.01187, figure 2)."""

    def __init__(self, dims: Sequence[int], pool: nn.Module, *, in_chans: int = 3, act: nn.Module | None = None):
        super().__init__()
        act = act or nn.ReLU()
        self.convs = Chain(*(conv_norm(before, dim, 3, 1 if i else 2, act=act)
                             for i, (before, dim) in enumerate(zip((in_chans, *dims), dims, strict=False))))
        self.pool = pool

    def forward(self, image: Tensor) -> Tensor:
        x = self.convs(image.permute(0, 2, 3, 1))                                       # (B, h, w, C)
        return self.pool(x)


def pooled_shortcut(width: int, out: int, stride: int) -> nn.Module:
    """The way past a block, which strides by a mean over 2 x 2 places (ResNet-D of arXiv:1812.01187, figure 2)."""
    if stride == 1:
        return shortcut(width, out, 1)
    return Chain(pool=AvgPool(stride, stride), **dict(conv_norm(width, out).named_children()))


def squeeze_excite(dim: int) -> SqueezeExcite:
    """Squeeze-and-excitation that narrows to a quarter."""
    return SqueezeExcite(dim, dim // 4, act=nn.ReLU(), gate=nn.Sigmoid())


def _init_weights(model: nn.Module) -> None:
    for part in model.modules():
        if isinstance(part, Conv):
            init.lecun_conv(part)


class ResNetRS(ResNetBody):
    """A deep stem and four stages of bottlenecks, each branch weighed by squeeze-and-excitation.

    image (B, 3, H, W) -> a map (B, ⌈H/s⌉, ⌈W/s⌉, C) a stage, s = 4, 8, 16, 32. `dropout` is the head's. Stochastic
    depth grows from stage to stage and not from block to block, as in the authors' code: in the last of n it is
    `drop_path`, in stage i, counted from one, `drop_path` (i + 1) / (n + 1).
    """

    stem_weights = ("patch_embed.convs.0.conv.weight",)

    def __init__(self, *, dim: int = 64, depths: tuple[int, ...] = (3, 4, 6, 3), dropout: float = 0.25,
                 in_chans: int = 3, drop_path: float = 0.0):
        def block(stage: int, width: int, dim: int, stride: int, drop: float) -> nn.Module:
            return Bottleneck(width, dim, stride, drop_path * (stage + 2) / (len(depths) + 1),
                              squeeze=squeeze_excite(4 * dim), past=pooled_shortcut(width, 4 * dim, stride))
        stem = DeepStem((dim // 2, dim // 2, dim), conv_norm(dim, dim, 3, 2, act=nn.ReLU()), in_chans=in_chans)
        super().__init__(stem, dim, depths, 0.0, block, init_weights=_init_weights)
        self.dropout = dropout

    def make_head(self, classes: int) -> nn.Module:
        return Head(self.channels[-1], classes, DroppedMean(self.dropout), init_weights=init.normal_linears)


def _size(depth: int, params: int, gflops: float, image: int, top1: float, reported: dict[str, float],
          **args: Any) -> Variant[ResNetRS]:
    """A size with its release: timm's copy of the authors' checkpoint for images of this size."""
    return variant(
        ResNetRS,
        Figures(params=params, gflops=gflops, image=image, reported=reported, where=_WHERE if reported else ""),
        Weights(name="tf_in1k", source=f"hf://timm/resnetrs{depth}.tf_in1k/model.safetensors", keys="timm",
                license="Apache-2.0", image=image, crop={50: 0.91, 101: 0.94}.get(depth, 1.0), reported={"top1": top1},
                where="README of tensorflow/tpu, models/official/resnet/resnet_rs"), **args)


_WHERE = "the comparison with EfficientNet-B6 and -B7, where a multiply-add counts as two"

resnet_rs_50 = _size(50, 35_691_912, 2.279, 160, 78.8, {}, depths=(3, 4, 6, 3))
resnet_rs_101 = _size(101, 63_618_696, 6.012, 192, 81.2, {}, depths=(3, 4, 23, 3))
resnet_rs_152 = _size(152, 86_621_576, 15.528, 256, 83.0, {}, depths=(3, 8, 36, 3))
resnet_rs_200 = _size(200, 93_209_992, 20.093, 256, 83.4, {}, depths=(3, 24, 36, 3))
resnet_rs_270 = _size(270, 129_861_448, 26.950, 256, 83.8, {}, depths=(4, 29, 53, 4))
resnet_rs_350 = _size(350, 163_956_168, 34.377, 256, 84.0, {"params_m": 164, "gflops": 69}, depths=(4, 36, 72, 4))
resnet_rs_420 = _size(420, 191_891_656, 63.942, 320, 84.4, {"params_m": 192, "gflops": 128}, depths=(4, 44, 87, 4),
                      dropout=0.4)


def _stage(i: int) -> dict[str, str]:
    there, here = f"layer{i + 1}.{{}}.", f"backbone.stages.{i}.{{}}."
    table = {there + "downsample.1.*": here + "shortcut.conv.*", there + "downsample.2.*": here + "shortcut.norm.*",
             there + "se.fc1.*": here + "squeeze.reduce.*", there + "se.fc2.*": here + "squeeze.expand.*"}
    for n in (1, 2, 3):
        table |= {f"{there}conv{n}.*": f"{here}conv{n}.*", f"{there}bn{n}.*": f"{here}norm{n}.*"}
    return table


TIMM = Keys({
    **conv_norm_names("", "backbone.patch_embed.", ("conv1.0", "conv1.1", "convs.0"), ("conv1.3", "conv1.4", "convs.1"),
                      ("conv1.6", "bn1", "convs.2"), ("maxpool.0", "maxpool.1", "pool")),
    **{theirs: ours for i in range(4) for theirs, ours in _stage(i).items()},
    "fc.*": "head.linear.*",
})

KEYS = {"timm": lambda settings: TIMM}
