"""LambdaResNet: a ResNet whose 3 x 3 convolutions are lambda layers, all of them or some.

Bello, ICLR 2021, arXiv:2102.08602. No code was released; timm trained three networks of its own with the layer.
"""
from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn

from vitrail.attention.lambda_layer import LambdaGlobal, LambdaLocal
from vitrail.backbones.resnet import Bottleneck, Names, ResNetBody, Stem, pooled, torchvision
from vitrail.backbones.resnet_rs import DeepStem
from vitrail.core.card import Figures, Idea, Paper, Variant, Weights, variant
from vitrail.core.keys import AS_CONV, Fold, Keys, Row
from vitrail.nn import Conv, MaxPool, each_stage, grid_of, init
from vitrail.nn.names import conv_norm_names

PAPER = Paper(title="LambdaNetworks: Modeling Long-Range Interactions Without Attention", arxiv="2102.08602",
              authors="Bello", year=2021, venue="ICLR",
              builds_on=("attention.lambda_layer", "backbones.resnet", "backbones.resnet_rs"),
              ideas=(Idea("attention.lambda_layer", "section 3", "the layer"),
                     Idea("backbones.resnet", "section 5.1", "the network whose convolutions it replaces")))
INIT = partial(init.kaiming_convs, kind=Conv)       # the ResNet's own convolutions; the lambda layers stay as they are


class LambdaResNet(ResNetBody):
    """A ResNet with a lambda layer in each bottleneck (section 5.1): local ones, of `keys` channels, `heads` queries
    and a window of `window` x `window` places, followed by a mean over 3 x 3 where the block strides (appendix).

    image (B, 3, H, W) -> a map (B, ⌈H/s⌉, ⌈W/s⌉, C) a stage, s = 4, 8, 16, 32.
    """

    def __init__(self, *, dim: int = 64, depths: tuple[int, ...] = (3, 4, 6, 3), heads: int = 4, keys: int = 16,
                 intra: int = 1, window: int = 23, in_chans: int = 3, drop_path: float = 0.0):
        def block(stage: int, width: int, dim: int, stride: int, drop: float) -> nn.Module:
            mixer = LambdaLocal(dim, heads, window=window, keys=keys, intra=intra)
            return Bottleneck(width, dim, stride, drop, middle=pooled(mixer, 3, stride))
        super().__init__(Stem(dim, in_chans=in_chans), dim, depths, drop_path, block, init_weights=INIT)


class LambdaResNetT(ResNetBody):
    """timm's: a ResNet with a stem of rising widths, and lambda layers in the blocks that `lambdas` numbers, a tuple a
    stage, followed by a mean over 2 x 2 where the block strides.

    image (B, 3, H, W) -> a map (B, ⌈H/s⌉, ⌈W/s⌉, C) a stage, s = 4, 8, 16, 32. A window of 0 is the whole map, by a
    table of offsets that is of `image` and for other sizes is resampled. `silu` is the activation, else ReLU.
    """

    stem_weights = ("patch_embed.convs.0.conv.weight",)

    def __init__(self, *, image: int | tuple[int, int] = 256, dim: int = 64, depths: tuple[int, ...] = (2, 2, 2, 2),
                 lambdas: tuple[tuple[int, ...], ...] = ((), (), (1,), (0, 1)), heads: int = 4, keys: int = 16,
                 window: int = 9, silu: bool = False, in_chans: int = 3, drop_path: float = 0.0):
        each_stage(lambdas=lambdas, depths=depths)
        act = nn.SiLU if silu else nn.ReLU
        chosen = iter([j in lambdas[i] for i, depth in enumerate(depths) for j in range(depth)])

        def block(stage: int, width: int, dim: int, stride: int, drop: float) -> nn.Module:
            middle = None
            if next(chosen):
                grid = grid_of(image, (4 << stage) // stride)
                middle = pooled(LambdaLocal(dim, heads, window=window, keys=keys) if window else
                                LambdaGlobal(dim, heads, grid=grid, keys=keys), 2, stride)
            return Bottleneck(width, dim, stride, drop, middle=middle, act=act())
        stem = DeepStem((3 * dim // 8, dim // 2, dim), MaxPool(3, 2), in_chans=in_chans, act=act())
        super().__init__(stem, dim, depths, drop_path, block, init_weights=INIT)


def _paper(params: int, gflops: float, depths: tuple[int, ...], **reported: float) -> Variant[LambdaResNet]:
    return variant(LambdaResNet, Figures(params=params, gflops=gflops, reported=reported,
                                         where="section 5.1" if reported else ""), depths=depths)


def _timm(params: int, gflops: float, file: str, crop: float, **args: Any) -> Variant[LambdaResNetT]:
    return variant(LambdaResNetT, Figures(params=params, gflops=gflops, image=256), Weights(
        name=file.partition(".")[2], source=f"hf://timm/{file}/model.safetensors", keys="timm", license="Apache-2.0",
        image=256, crop=crop), **args)


lambda_resnet_50 = _paper(14_995_848, 6.576, (3, 4, 6, 3), params_m=15.0)
lambda_resnet_101 = _paper(24_736_168, 10.281, (3, 4, 23, 3))
lambda_resnet_152 = _paper(32_807_112, 14.434, (3, 8, 36, 3))
lambda_resnet_200 = _paper(35_296_968, 19.714, (3, 24, 36, 3))
lambda_resnet_26t = _timm(10_958_272, 3.003, "lambda_resnet26t.c1_in1k", 0.94)
lambda_resnet_26rpt = _timm(10_988_688, 3.139, "lambda_resnet26rpt_256.c1_in1k", 0.94, window=0)
lambda_resnet_50ts = _timm(21_536_832, 5.037, "lambda_resnet50ts.a1h_in1k", 0.95, depths=(3, 4, 6, 3), silu=True,
                           lambdas=((), (3,), (1, 3, 5), (1,)))


def _layer(there: str, here: str) -> Names:
    """The names that timm's local layer has below `there`; its convolution is one of three axes."""
    flat = Fold(lambda w: w[..., 0], lambda w: w[..., None])
    return ({there + "norm_*": here + "norm_*", there + "conv_lambda.bias": here + "conv.bias"},
            [Row((there + "qkv.weight",), here + "qkv.weight", AS_CONV),
             Row((there + "conv_lambda.weight",), here + "conv.weight", flat)])


def _papers(settings: Mapping[str, Any]) -> Keys:
    """Nobody released tensors: the names that timm's ResNet has with timm's layer and a mean in the place of conv2."""
    return torchvision(settings, lambda there, here: _layer(there + "0.", here + "mixer."))


def _timms(settings: Mapping[str, Any]) -> Keys:
    there, here = "stages.{}.{}.", "backbone.stages.{}.{}."
    table, rows = _layer(there + "self_attn.", here + "conv2.mixer.")
    for i in range(3):
        table |= conv_norm_names(f"stem.conv{i + 1}.", "backbone.patch_embed.", ("conv", "bn", f"convs.{i}"))
    for theirs, conv, norm in (("shortcut", "shortcut.conv", "shortcut.norm"), ("conv1_1x1", "conv1", "norm1"),
                               ("conv3_1x1", "conv3", "norm3")):
        table |= {f"{there}{theirs}.conv.*": f"{here}{conv}.*", f"{there}{theirs}.bn.*": f"{here}{norm}.*"}
    for i, (depth, lambdas) in enumerate(zip(settings["depths"], settings["lambdas"], strict=True)):
        for j in range(depth):                      # the norm behind the middle is named by what stands before it
            theirs, ours = f"stages.{i}.{j}.", f"backbone.stages.{i}.{j}."
            table[theirs + ("post_attn.*" if j in lambdas else "conv2_kxk.bn.*")] = ours + "norm2.*"
            if j in lambdas:                        # a block that strides looks at the map before it
                height, _ = grid_of(settings["image"], (4 << i) // (2 if i and not j else 1))
                back = partial(Tensor.reshape, shape=(2 * height - 1, -1, settings["keys"]))
                rows.append(Row((theirs + "self_attn.pos_emb",), ours + "conv2.mixer.offsets",
                                Fold(lambda e: e.flatten(0, 1)[None], back)))
    return Keys({**table, there + "conv2_kxk.conv.*": here + "conv2.*", "head.fc.*": "head.linear.*"}, rows=rows)


KEYS = {"timm": lambda settings: _timms(settings) if "lambdas" in settings else _papers(settings)}
