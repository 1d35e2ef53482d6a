"""MobileViT: between convolutions, pixels at the same place of every small patch attend to each other.

Mehta & Rastegari, ICLR 2022, arXiv:2110.02178. A convolution sees the pixels of a patch, the attention all patches,
so that together each pixel sees the whole image, at a fraction of the pairs.
"""
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.backbones.mobilenet_v2 import InvertedResidual
from vitrail.core.card import Figures, Idea, Paper, Variant, Weights, variant
from vitrail.core.errors import ModelError
from vitrail.core.keys import Fold, Keys, Row
from vitrail.nn import (Block, Chain, Conv, DropPath, DroppedMean, Features, GroupedAttention, Mlp, Head, Residual,
                        Stack, Strided, conv_norm, each_stage, init, pyramid, drop_path_rates)
from vitrail.nn.names import block_names

PAPER = Paper(title="MobileViT: Light-weight, General-purpose, and Mobile-friendly Vision Transformer",
              arxiv="2110.02178", authors="Mehta & Rastegari", year=2022, venue="ICLR", code="apple/ml-cvnets",
              license="Apple", builds_on=("backbones.mobilenet_v2",),
              ideas=(Idea("backbones.mobilenet_v2", "section 3", "the convolutional blocks"),
                     Idea("backbones.vit", "section 3", "attention over patches")))


class MobileViTBlock(nn.Module):
    """Convolutions, transformer blocks at another width, and what joins them with the input (figure 1b):
    (B, H, W, dim) -> same. In a block, the pixels at one place of all window x window patches attend to each other
    (equation 1); nothing tells where a patch stands.

    A map that the patches do not divide is resized for the transformer to the next one that they do, and back.
    """

    def __init__(self, dim: int, blocks: Stack, inner: int, window: int, act: nn.Module):
        super().__init__()
        self.window = window
        self.local, self.enter = conv_norm(dim, dim, 3, act=act), Conv(dim, inner, 1, bias=False)
        self.blocks, self.norm = blocks, nn.LayerNorm(inner)
        self.leave, self.fuse = conv_norm(inner, dim, act=act), conv_norm(2 * dim, dim, 3, act=act)

    def forward(self, x: Tensor) -> Tensor:
        H, W = x.shape[1:3]
        y = self.enter(self.local(x))                                                   # (B, H, W, D)
        y = resize(y, H + -H % self.window, W + -W % self.window)                       # (B, h, w, D)
        y = resize(self.norm(self.blocks(y)), H, W)                                     # (B, H, W, D)
        return self.fuse(torch.cat([x, self.leave(y)], -1))


def resize(x: Tensor, height: int, width: int) -> Tensor:
    """A map resampled bilinearly: (B, H, W, C) -> (B, height, width, C)."""
    same = (height, width) == tuple(x.shape[1:3]) if isinstance(height, int) and isinstance(width, int) else False
    if same:            # a program exported for open sizes cannot know, and resamples a map of this size onto itself
        return x
    return F.interpolate(x.permute(0, 3, 1, 2), (height, width), mode="bilinear").permute(0, 2, 3, 1)


class MobileViT(nn.Module):
    """A stem of stride 2, two stages of inverted residuals, three that end in a MobileViT block, and a 1 x 1
    convolution (table 4), with SiLU everywhere.

    image (B, 3, H, W) -> a map (B, ⌈H/s⌉, ⌈W/s⌉, C) a stage, s = 2, 4, 8, 16, 32, the last one behind the convolution.
    dims: channels a stage. inner: those of the transformers. depths: inverted residuals of the first two stages,
    transformer blocks of the others. expansion: of the inverted residuals. window: the side of a patch of a map.
    dropout: of a transformer's branches; the head drops a tenth in every size. Initialised as the authors'
    configuration says; stochastic depth is this library's. Raises ModelError where the settings do not fit together.
    """

    stem_weights = ("patch_embed.conv.weight",)

    def __init__(self, *, dims: tuple[int, ...] = (32, 64, 96, 128, 160), inner: tuple[int, ...] = (144, 192, 240),
                 depths: tuple[int, ...] = (1, 3, 2, 4, 3), heads: int = 4, expansion: int = 4, window: int = 2,
                 mlp_ratio: float = 2.0, dropout: float = 0.1, in_chans: int = 3, drop_path: float = 0.0):
        super().__init__()
        each_stage(dims=dims, depths=depths, inner=(0, 0, *inner))
        if len(dims) != 5 or min(depths) < 1:
            raise ModelError(f"depths of {depths}: there are five stages, and each needs at least one block")
        if window < 1:
            raise ModelError(f"patches of {window} x {window} pixels hold nothing: a side is 1, 2, 3, ...")
        act, drops = nn.SiLU(), iter(drop_path_rates(drop_path, sum(depths)))

        def residual(dim: int, out: int, stride: int, drop: float) -> InvertedResidual:
            return InvertedResidual(dim, dim * expansion, out, stride=stride, act=act, drop=drop)

        def block(width: int) -> Block:
            drop = next(drops)

            def branch(fn: nn.Module) -> Residual:
                return Residual(fn, nn.LayerNorm(width), drop=Chain(nn.Dropout(dropout), DropPath(drop)))
            return Block(mix=branch(GroupedAttention(width, heads, Strided(stride=window))),
                         mlp=branch(Mlp(width, int(width * mlp_ratio), nn.SiLU)))

        def stage(i: int) -> nn.Module:
            before, dim = (16, *dims)[i], dims[i]
            if i < 2:
                return Stack(residual(dim if j else before, dim, 2 if i and not j else 1, next(drops))
                             for j in range(depths[i]))
            width = inner[i - 2]
            return Chain(down=residual(before, dim, 2, 0.0),
                         mix=MobileViTBlock(dim, Stack(block(width) for _ in range(depths[i])), width, window, act))

        self.patch_embed = conv_norm(in_chans, 16, 3, 2, act=act)
        self.stages = nn.ModuleList(stage(i) for i in range(5))
        last = min(4 * dims[-1], 960)
        self.last = conv_norm(dims[-1], last, act=act)
        self.channels, self.strides = (*dims[:-1], last), (2, 4, 8, 16, 32)
        init.kaiming_convs(self)
        init.truncated_linears(self)

    def forward(self, image: Tensor) -> Features:
        x = self.patch_embed(image.permute(0, 2, 3, 1))                                    # (B, h, w, C)
        *finer, x = pyramid(x, self.stages)                                             # (B, H, W, D)
        return Features(maps=(*finer, self.last(x)))

    def make_head(self, classes: int) -> nn.Module:
        """A linear layer on the mean of the last map, of whose channels a tenth is dropped."""
        return Head(self.channels[-1], classes, DroppedMean(0.1), init_weights=init.truncated_linears)


def _size(name: str, params: int, gflops: float, top1: float, reported: Mapping[str, float],
          **args: Any) -> Variant[MobileViT]:
    # pixels between 0 and 1, and nothing subtracted
    seen: dict[str, Any] = dict(license="Apple (apple/ml-cvnets)", image=256, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0),
                                reported={"top1": top1}, where="model zoo of the authors' code")
    return variant(
        MobileViT, Figures(params=params, gflops=gflops, image=256, reported=reported, where="table 4"),
        Weights(name="cvnets_in1k", source=f"hf://timm/mobilevit_{name}.cvnets_in1k/model.safetensors", keys="timm",
                crop=0.9, **seen),
        Weights(name="official_in1k", keys="official", crop=256 / 288, interpolation="bilinear",
                source="https://docs-assets.developer.apple.com/ml-research/models/cvnets/classification/"
                       f"mobilevit_{name}.pt", **seen),
        **args)


mobilevit_xxs = _size("xxs", 1_272_024, 0.407, 69.0, {"params_m": 1.3}, dims=(16, 24, 48, 64, 80),
                      inner=(64, 80, 96), expansion=2, dropout=0.05)
mobilevit_xs = _size("xs", 2_317_848, 1.026, 74.7, {"params_m": 2.3}, dims=(32, 48, 64, 80, 96), inner=(96, 120, 144))
mobilevit_s = _size("s", 5_578_632, 2.001, 78.3, {"params_m": 5.6})


def _pairs(conv: str, norm: str, parts: Mapping[str, str]) -> dict[str, str]:
    """Names of convolutions with a norm, where a convolution is called `conv` and its norm `norm`."""
    return {f"{there}.{name}.*": f"{here}.{ours}.*" for there, here in parts.items()
            for name, ours in ((conv, "conv"), (norm, "norm"))}


def _timm() -> dict[str, str]:
    there, here = "stages.{}.1", "backbone.stages.{}.mix"
    blocks, ours = f"{there}.transformer.{{}}", f"{here}.blocks.{{}}"
    residuals = {f"stages.{i}.{{}}": f"backbone.stages.{i}.{{}}" for i in (0, 1)} | {
        "stages.{}.0": "backbone.stages.{}.down"}
    return _pairs("conv", "bn", {
        "stem": "backbone.patch_embed", "final_conv": "backbone.last", f"{there}.conv_kxk": f"{here}.local",
        f"{there}.conv_proj": f"{here}.leave", f"{there}.conv_fusion": f"{here}.fuse",
        **{f"{theirs}.{name}": f"{at}.{part}" for theirs, at in residuals.items()
           for name, part in (("conv1_1x1", "widen"), ("conv2_kxk", "depthwise"), ("conv3_1x1", "narrow"))}}) | {
        f"{there}.conv_1x1.*": f"{here}.enter.*", f"{there}.norm.*": f"{here}.norm.*",
        **block_names(f"{blocks}.", f"{ours}."), "head.fc.*": "head.linear.*"}


def _official(depths: Sequence[int]) -> Keys:
    """The authors' names; the norm behind the transformer blocks counts as one of them."""
    convs = {"conv_1": "backbone.patch_embed", "conv_1x1_exp": "backbone.last"}
    plain = {"classifier.fc.*": "head.linear.*"}
    for i, depth in enumerate(depths):
        there, here = f"layer_{i + 1}.{'{}' if i < 2 else 0}.block", f"backbone.stages.{i}.{'{}' if i < 2 else 'down'}"
        convs |= {f"{there}.{name}": f"{here}.{part}" for name, part in (
            ("exp_1x1", "widen"), ("conv_3x3", "depthwise"), ("red_1x1", "narrow"))}
        if i < 2:
            continue
        there, here = f"layer_{i + 1}.1", f"backbone.stages.{i}.mix"
        convs |= {f"{there}.local_rep.conv_3x3": f"{here}.local", f"{there}.conv_proj": f"{here}.leave",
                  f"{there}.fusion": f"{here}.fuse"}
        blocks, ours = f"{there}.global_rep.{{}}", f"{here}.blocks.{{}}"
        plain |= {f"{there}.local_rep.conv_1x1.block.conv.*": f"{here}.enter.*",
                  f"{there}.global_rep.{depth}.*": f"{here}.norm.*",
                  f"{blocks}.pre_norm_mha.0.*": f"{ours}.mix.norm.*",
                  f"{blocks}.pre_norm_mha.1.qkv_proj.*": f"{ours}.mix.fn.qkv.proj.*",
                  f"{blocks}.pre_norm_mha.1.out_proj.*": f"{ours}.mix.fn.out.proj.*",
                  f"{blocks}.pre_norm_ffn.0.*": f"{ours}.mlp.norm.*",
                  f"{blocks}.pre_norm_ffn.1.*": f"{ours}.mlp.fn.fc1.*",
                  f"{blocks}.pre_norm_ffn.4.*": f"{ours}.mlp.fn.fc2.*"}
    # the authors read images as blue, green, red
    turned = Row(("conv_1.block.conv.weight",), "backbone.patch_embed.conv.weight",
                 Fold(lambda weight: weight.flip(1), lambda weight: weight.flip(1)))
    return Keys(_pairs("block.conv", "block.norm", convs) | plain, rows=[turned])


TIMM = Keys(_timm())

KEYS = {"timm": lambda settings: TIMM, "official": lambda settings: _official(settings["depths"])}
