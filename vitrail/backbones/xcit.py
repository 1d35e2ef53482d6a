"""XCiT: attend between channels instead of tokens, so that the cost is linear in the image.

El-Nouby et al., NeurIPS 2021, arXiv:2106.09681.
"""
import math
from typing import Any

import torch
from torch import Tensor, nn

from vitrail.attention.cross_covariance import CrossCovariance
from vitrail.backbones.cait import ClassAttention
from vitrail.core.card import Figures, Idea, Paper, Variant, Weights, variant
from vitrail.core.errors import ModelError
from vitrail.core.keys import Fold, Keys, Row
from vitrail.nn import (BatchNorm, Chain, Conv, DropPath, Features, LayerNorm, Mlp, Prefix, Head, Residual, Scale,
                        Stack, class_token, from_tokens, init)
from vitrail.ops.windows import by_size

PAPER = Paper(title="XCiT: Cross-Covariance Image Transformers", arxiv="2106.09681", authors="El-Nouby et al.",
              year=2021, venue="NeurIPS", code="facebookresearch/xcit", license="Apache-2.0",
              builds_on=("attention.cross_covariance", "backbones.cait"),
              ideas=(Idea("attention.cross_covariance", "section 3.2", "its attention"),
                     Idea("backbones.cait", "section 3.3", "attention of the class token, scaled branches"),
                     Idea("backbones.deit", "experiments", "the training and the distillation")))


def local_patch_interaction(dim: int) -> Chain:
    """Channels attended, neighbours did not: two depthwise convolutions let them, (B, h, w, C) -> same (LPI)."""
    return Chain(conv1=Conv(dim, dim, 3, padding=1, groups=dim), act=nn.GELU(), norm=BatchNorm(dim),
                 conv2=Conv(dim, dim, 3, padding=1, groups=dim))


class ClassBlock(nn.Module):
    """A layer of class attention as released, which is not the paper's picture of one.

    The patch tokens are not left alone: the first residual adds their own scaled norm to them, and the second adds
    them to themselves, so that they leave twice as large. The second also starts after its norm, not before it.
    `norm_tokens` says whether that norm is for all tokens or for the class token alone.
    """

    def __init__(self, dim: int, heads: int, mlp_ratio: float, scale: float, norm_tokens: bool):
        super().__init__()
        self.norm1, self.mix, self.scale1 = LayerNorm(dim), ClassAttention(dim, heads), Scale(dim, scale)
        self.norm2, self.mlp, self.scale2 = LayerNorm(dim), Mlp(dim, int(dim * mlp_ratio)), Scale(dim, scale)
        self.norm_tokens = norm_tokens

    def forward(self, x: Tensor) -> Tensor:                             # (B, 1 + N, C)
        y = self.norm1(x)                                               # (B, M, C)
        x = x + self.scale1(torch.cat([self.mix(y), y[:, 1:]], 1))      # (B, M, C)
        ask, rest = (self.norm2(x) if self.norm_tokens else x).tensor_split((1,), 1)
        ask = ask if self.norm_tokens else self.norm2(ask)              # (B, 1, C)
        return torch.cat([ask + self.scale2(self.mlp(ask)), rest + rest], 1)


class FourierPosition(nn.Module):
    """Sines and cosines of the place of a row and a column in its own image, projected: any grid, no table."""

    def __init__(self, dim: int, *, waves: int = 32, temperature: float = 10_000.0):
        super().__init__()
        self.project = Conv(2 * waves, dim, 1)
        self.waves, self.temperature = waves, temperature

    def forward(self, x: Tensor) -> Tensor:                             # (B, h, w, C)
        h, w = x.shape[1:3]
        table = by_size(("xcit_waves", h, w, self.waves, self.temperature), x, lambda: self.table(h, w, x))
        return x + self.project(table)

    def table(self, h: int, w: int, like: Tensor) -> Tensor:
        """(1, h, w, 2 · waves), the rows' waves first, made in float32."""
        at = torch.arange(self.waves, dtype=torch.float32, device=like.device)
        period = self.temperature ** (2 * (at // 2) / self.waves)

        def wave(n: int) -> Tensor:                                     # (n, waves)
            turn = torch.arange(1, n + 1, dtype=torch.float32, device=like.device)
            angle = (turn / (turn[-1] + 1e-6) * 2 * math.pi)[:, None] / period
            return torch.stack([angle[:, 0::2].sin(), angle[:, 1::2].cos()], -1).flatten(1)
        return torch.cat([wave(h)[:, None].expand(h, w, -1), wave(w).expand(h, w, -1)], -1)[None].to(like.dtype)


class ConvPatches(nn.Module):
    """Convolutions halve the image until a patch is one place, and double the channels: (B, ⌈H/p⌉, ⌈W/p⌉, C).

    Every one pads by itself, so no size needs padding beforehand.
    """

    def __init__(self, patch: int, dim: int, *, in_chans: int = 3):
        super().__init__()
        halvings = patch.bit_length() - 1
        if halvings < 1 or patch != 1 << halvings or dim % (patch // 2):
            raise ModelError(f"patch={patch} and dim={dim} do not go together: a patch is 2, 4, 8, 16, ... pixels "
                             f"wide, and half of that must divide dim")
        dims = [in_chans, *(dim >> i for i in reversed(range(halvings)))]
        parts: list[nn.Module] = []
        for a, b in zip(dims, dims[1:], strict=False):
            parts += [Chain(Conv(a, b, 3, 2, 1, bias=False), BatchNorm(b)), nn.GELU()]
        self.proj = Chain(*parts[:-1])

    def forward(self, image: Tensor) -> Tensor:
        return self.proj(image.permute(0, 2, 3, 1))


class XCiT(nn.Module):
    """`depth` layers on a map without a class token, which then asks in `class_depth` more.

    image (B, 3, H, W) -> one map (B, ⌈H/p⌉, ⌈W/p⌉, dim) and the class token. Raises ModelError on another patch.
    """

    stem_weights = ("patch_embed.proj.0.0.weight",)

    def __init__(self, *, patch: int = 16, dim: int = 384, depth: int = 12, heads: int = 8, mlp_ratio: float = 4.0,
                 class_depth: int = 2, scale: float = 1.0, norm_tokens: bool = True, in_chans: int = 3,
                 drop_path: float = 0.0):
        super().__init__()
        self.channels, self.strides = (dim,), (patch,)
        self.patch_embed = ConvPatches(patch, dim, in_chans=in_chans)
        self.position, self.prefix = FourierPosition(dim), Prefix(1, dim)

        # one rate of stochastic depth for all layers, no drop_path_rates
        def residual(fn: nn.Module) -> Residual:
            return Residual(fn, LayerNorm(dim), scale=Scale(dim, scale), drop=DropPath(drop_path))

        self.blocks = Stack(Chain(xca=residual(CrossCovariance(dim, heads)), lpi=residual(local_patch_interaction(dim)),
                                  mlp=residual(Mlp(dim, int(dim * mlp_ratio)))) for _ in range(depth))
        self.class_blocks = Stack(ClassBlock(dim, heads, mlp_ratio, scale, norm_tokens) for _ in range(class_depth))
        self.norm = LayerNorm(dim)
        init.truncated(self)

    def forward(self, image: Tensor) -> Features:
        x = self.blocks(self.position(self.patch_embed(image)))                    # (B, h, w, C)
        grid = x.shape[1:3]
        x = self.norm(self.class_blocks(self.prefix(x.flatten(1, 2))))          # (B, 1 + N, C)
        return from_tokens(x, grid, prefix=1)

    def make_head(self, classes: int) -> nn.Module:
        return Head(self.channels[-1], classes, class_token, init_weights=init.truncated_linears)


def _size(params: int, gflops: float, file: str, top1: tuple[float, float, float], **args: Any) -> Variant[XCiT]:
    """A size with its three trainings: at 224, at 224 with a teacher (dist), and that one tuned at 384 pixels.

    Its tensors have one shape at every size of image.
    """
    found = []
    for image, dist, score in zip((224, 224, 384), ("", "_dist", "_dist"), top1, strict=True):
        seen: dict[str, Any] = dict(image=image, crop=1.0, license="Apache-2.0", reported={"top1": score},
                                    where="README of facebookresearch/xcit")
        fine = "_384" if image == 384 else ""
        found += [Weights(name=f"fb{dist}_in1k{fine}", keys="timm",
                          source=f"hf://timm/{file}_{image}.fb{dist}_in1k/model.safetensors", **seen),
                  Weights(name=f"official{dist}{fine}", keys="official", inside="model",
                          source=f"https://dl.fbaipublicfiles.com/xcit/{file}_{image}{dist}.pth", **seen)]
    return variant(XCiT, Figures(params=params, gflops=gflops), *found, **args)


_N12: dict[str, Any] = dict(dim=128, heads=4, norm_tokens=False)
_T12: dict[str, Any] = dict(dim=192, heads=4)
_T24: dict[str, Any] = dict(dim=192, heads=4, depth=24, scale=1e-5)
_S12: dict[str, Any] = dict(dim=384, heads=8)
_S24: dict[str, Any] = dict(dim=384, heads=8, depth=24, scale=1e-5)
_M24: dict[str, Any] = dict(dim=512, heads=8, depth=24, scale=1e-5)
_L24: dict[str, Any] = dict(dim=768, heads=16, depth=24, scale=1e-5)

xcit_nano_12_p16 = _size(3_053_224, 0.557, "xcit_nano_12_p16", (69.9, 72.2, 75.4), **_N12)
xcit_tiny_12_p16 = _size(6_716_272, 1.245, "xcit_tiny_12_p16", (77.1, 78.6, 80.9), **_T12)
xcit_tiny_24_p16 = _size(12_116_896, 2.337, "xcit_tiny_24_p16", (79.4, 80.4, 82.6), **_T24)
xcit_small_12_p16 = _size(26_253_304, 4.854, "xcit_small_12_p16", (82.0, 83.3, 84.7), **_S12)
xcit_small_24_p16 = _size(47_671_384, 9.118, "xcit_small_24_p16", (82.6, 83.9, 85.1), **_S24)
xcit_medium_24_p16 = _size(84_395_752, 16.186, "xcit_medium_24_p16", (82.7, 84.3, 85.4), **_M24)
xcit_large_24_p16 = _size(189_096_136, 36.018, "xcit_large_24_p16", (82.9, 84.9, 85.8), **_L24)
xcit_nano_12_p8 = _size(3_049_016, 2.159, "xcit_nano_12_p8", (73.8, 76.3, 77.8), patch=8, **_N12)
xcit_tiny_12_p8 = _size(6_706_504, 4.829, "xcit_tiny_12_p8", (79.7, 81.2, 82.4), patch=8, **_T12)
xcit_tiny_24_p8 = _size(12_107_128, 9.197, "xcit_tiny_24_p8", (81.9, 82.6, 83.7), patch=8, **_T24)
xcit_small_12_p8 = _size(26_213_032, 18.850, "xcit_small_12_p8", (83.4, 84.2, 85.1), patch=8, **_S12)
xcit_small_24_p8 = _size(47_631_112, 35.909, "xcit_small_24_p8", (83.9, 84.9, 85.6), patch=8, **_S24)
xcit_medium_24_p8 = _size(84_323_624, 63.757, "xcit_medium_24_p8", (83.7, 85.1, 85.8), patch=8, **_M24)
xcit_large_24_p8 = _size(188_932_648, 141.882, "xcit_large_24_p8", (84.4, 85.4, 86.0), patch=8, **_L24)

_TABLE = {
    "patch_embed.*":                    "backbone.patch_embed.*",
    "cls_token":                        "backbone.prefix.tokens",
    "blocks.{}.norm1.*":                "backbone.blocks.{}.xca.norm.*",
    "blocks.{}.gamma1":                 "backbone.blocks.{}.xca.scale.gamma",
    "blocks.{}.attn.temperature":       "backbone.blocks.{}.xca.fn.temperature",
    "blocks.{}.attn.qkv.*":             "backbone.blocks.{}.xca.fn.qkv.proj.*",
    "blocks.{}.attn.proj.*":            "backbone.blocks.{}.xca.fn.out.proj.*",
    "blocks.{}.norm3.*":                "backbone.blocks.{}.lpi.norm.*",      # counted third, run second
    "blocks.{}.gamma3":                 "backbone.blocks.{}.lpi.scale.gamma",
    "blocks.{}.local_mp.bn.*":          "backbone.blocks.{}.lpi.fn.norm.*",
    "blocks.{}.local_mp.*":             "backbone.blocks.{}.lpi.fn.*",
    "blocks.{}.norm2.*":                "backbone.blocks.{}.mlp.norm.*",
    "blocks.{}.gamma2":                 "backbone.blocks.{}.mlp.scale.gamma",
    "blocks.{}.mlp.*":                  "backbone.blocks.{}.mlp.fn.*",
    "cls_attn_blocks.{}.attn.qkv.*":    "backbone.class_blocks.{}.mix.qkv.proj.*",
    "cls_attn_blocks.{}.attn.proj.*":   "backbone.class_blocks.{}.mix.out.proj.*",
    "cls_attn_blocks.{}.gamma{}":       "backbone.class_blocks.{}.scale{}.gamma",
    "cls_attn_blocks.{}.*":             "backbone.class_blocks.{}.*",
    "norm.*":                           "backbone.norm.*",
    "head.*":                           "head.linear.*",
}
OFFICIAL = Keys({**_TABLE, "pos_embeder.token_projection.*": "backbone.position.project.*"})
TIMM = Keys({**_TABLE, "pos_embed.token_projection.*": "backbone.position.project.*"}, rows=[
    Row(tuple(f"cls_attn_blocks.{{}}.attn.{part}.*" for part in "qkv"), "backbone.class_blocks.{}.mix.qkv.proj.*",
        Fold(lambda *parts: torch.cat(parts), lambda qkv: qkv.chunk(3)))])
KEYS = {"timm": lambda settings: TIMM, "official": lambda settings: OFFICIAL}
