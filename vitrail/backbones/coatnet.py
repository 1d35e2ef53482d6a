"""CoAtNet: convolution where maps are large, attention with a bias for each offset where they are small.

Dai et al., NeurIPS 2021, arXiv:2106.04803. Its authors published no code; this is the paper's text, and where that is
silent (norms' constants, biases, initialisation) timm's reading of it.
"""
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from vitrail.core.card import Figures, Idea, Paper, Variant, variant
from vitrail.core.errors import ModelError
from vitrail.core.keys import AS_CONV, Fold, Keys, Row
from vitrail.nn import (Attend, BatchNorm, Block, Chain, Conv, DropPath, Features, LayerNorm, MaxPool, Merge, Mlp,
                        OffsetBias, Residual, SqueezeExcite, Stack, conv_norm, drop_path_rates, grid_of, init, mean_map,
                        pyramid, transformer_block)

PAPER = Paper(title="CoAtNet: Marrying Convolution and Attention for All Data Sizes", arxiv="2106.04803",
              authors="Dai et al.", year=2021, venue="NeurIPS",
              ideas=(Idea("backbones.mobilenet_v2", "section 2.1", "the inverted residual of the early stages"),
                     Idea("attention.self_attention", "section 2.1", "attention over all places"),
                     Idea("t5", "section 2.1", "a learned bias of each offset"),
                     Idea("backbones.vit", "section 2.2", "the design without stages that it starts from")))


class RelativeAttention(nn.Module):
    """Multi-head attention over all places, each score with the bias of its offset (equation 3, the pre-norm form).

    (B, H, W, dim) -> (B, H, W, out); `grid` is the map that its table is made for.
    """

    def __init__(self, dim: int, out: int, heads: int, grid: tuple[int, int]):
        super().__init__()
        if out % heads:
            raise ModelError(f"{heads} heads do not divide a width of {out}")
        self.heads = heads
        self.qkv, self.attend, self.out = nn.Linear(dim, 3 * out), Attend(), Merge(out)
        self.bias = OffsetBias(grid, heads)

    def forward(self, x: Tensor) -> Tensor:                                                 # (B, H, W, C)
        qkv = self.qkv(x).flatten(1, 2).unflatten(-1, (3, self.heads, -1))                  # (B, N, 3, h, D)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)                                      # (B, h, N, D)
        return self.out(self.attend(q, k, v, self.bias(*x.shape[1:3]))).unflatten(1, x.shape[1:3])


def pool(stride: int) -> nn.Module:
    """The maximum of stride x stride places, of fewer at the far edges: (B, H, W, C) -> (B, ⌈H/s⌉, ⌈W/s⌉, C)."""
    return nn.Identity() if stride == 1 else MaxPool(stride, stride)


class Entrance(nn.Module):
    """The attention of a stage's first block: Proj(Pool(x)) + Attention(Pool(Norm(x))) (equation 4)."""

    def __init__(self, mixer: nn.Module, dim: int, out: int, stride: int, drop: float):
        super().__init__()
        self.pool, self.norm, self.fn, self.drop = pool(stride), LayerNorm(dim), mixer, DropPath(drop)
        self.shortcut = nn.Linear(dim, out) if dim != out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(self.pool(x)) + self.drop(self.fn(self.pool(self.norm(x))))


class MBConv(nn.Module):
    """Proj(Pool(x)) + Conv(SE(DepthConv(Conv(Norm(x), stride)))) (equation 5): (B, H, W, dim) -> `out` channels.

    late: the depthwise convolution strides instead of the first one, which costs more and answers better (table 9).
    """

    def __init__(self, dim: int, out: int, stride: int, drop: float, *, mlp_ratio: float, late: bool):
        super().__init__()
        hidden, (first, second) = int(out * mlp_ratio), (1, stride) if late else (stride, 1)
        self.norm = BatchNorm(dim)
        self.widen = conv_norm(dim, hidden, 1, first, act=nn.GELU())
        self.filter = conv_norm(hidden, hidden, 3, second, groups=hidden, act=nn.GELU())
        self.squeeze = SqueezeExcite(hidden, max(out // 4, 1), act=nn.SiLU(), gate=nn.Sigmoid())
        self.narrow, self.drop = Conv(hidden, out, 1), DropPath(drop)
        self.shortcut = Chain(pool=pool(stride), proj=Conv(dim, out, 1) if dim != out else nn.Identity())

    def forward(self, x: Tensor) -> Tensor:
        y = self.narrow(self.squeeze(self.filter(self.widen(self.norm(x)))))
        return self.shortcut(x) + self.drop(y)


class CoAtNet(nn.Module):
    """A stem of two convolutions and the stages of table 3, each of MBConvs (heads 0) or of transformer blocks.

    image (B, 3, H, W) -> a map (B, ⌈H/s⌉, ⌈W/s⌉, C) a stage, s = 4, 8, 16, 32. A stage that does not stride (table 12)
    goes on with the map before it, and the two give one. `image`: the pixels that the tables of offsets are made for.
    `strided_depthwise`: see MBConv.late.
    """

    stem_weights = ("patch_embed.conv1.conv.weight",)

    def __init__(self, *, image: int | tuple[int, int] = 224, stem: int = 64,
                 dims: tuple[int, ...] = (96, 192, 384, 768), depths: tuple[int, ...] = (2, 3, 5, 2),
                 heads: tuple[int, ...] = (0, 0, 12, 24), stride: tuple[int, ...] = (2, 2, 2, 2),
                 mlp_ratio: float = 4.0, strided_depthwise: bool = False, in_chans: int = 3, drop_path: float = 0.0):
        super().__init__()
        if len({len(dims), len(depths), len(heads), len(stride)}) > 1 or min(depths) < 1 or stride[0] < 2:
            raise ModelError(f"dims={dims}, depths={depths}, heads={heads} and stride={stride} need one number a "
                             "stage each, a block in each, and a first stage that strides")
        reached = [2 * math.prod(stride[:i + 1]) for i in range(len(stride))]
        self.kept = tuple(i for i, step in enumerate((*stride[1:], 2)) if step > 1)
        self.channels, self.strides = tuple(dims[i] for i in self.kept), tuple(reached[i] for i in self.kept)
        drops = iter(drop_path_rates(drop_path, sum(depths)))

        def block(i: int, first: bool) -> nn.Module:
            width, step = ((dims[i - 1] if i else stem), stride[i]) if first else (dims[i], 1)
            dim, drop = dims[i], next(drops)
            if not heads[i]:
                return MBConv(width, dim, step, drop, mlp_ratio=mlp_ratio, late=strided_depthwise)
            mixer = RelativeAttention(width, dim, heads[i], grid_of(image, reached[i]))
            if not first:
                return transformer_block(mixer, dim, mlp_ratio, drop)
            mlp = Residual(Mlp(dim, int(dim * mlp_ratio)), LayerNorm(dim), drop=DropPath(drop))
            return Block(mix=Entrance(mixer, width, dim, step, drop), mlp=mlp)

        self.patch_embed = Chain(conv1=conv_norm(in_chans, stem, 3, 2, act=nn.GELU()),
                              conv2=Conv(stem, stem, 3, 1, 1, bias=False))
        self.stages = nn.ModuleList(Stack(block(i, j == 0) for j in range(depth)) for i, depth in enumerate(depths))
        init.xavier_linears(self)
        for part in self.modules():
            if isinstance(part, Conv):
                nn.init.normal_(part.weight, std=math.sqrt(2 * part.groups / part.weight[:, 0].numel()))
                if part.bias is not None:
                    nn.init.zeros_(part.bias)
            elif isinstance(part, OffsetBias):
                nn.init.trunc_normal_(part.table, std=0.02)

    def forward(self, image: Tensor) -> Features:
        maps = pyramid(self.patch_embed(image.permute(0, 2, 3, 1)), self.stages)
        return Features(maps=tuple(maps[i] for i in self.kept))

    def make_head(self, classes: int) -> nn.Module:
        return Head(self.channels[-1], classes)


class Head(nn.Module):
    """Features -> (B, classes): the mean of the last map, normed, a hidden layer with a tanh, a linear layer.

    Figure 4 draws the mean and one layer; the paper's numbers of parameters are met only with the hidden one.
    """

    def __init__(self, dim: int, classes: int):
        super().__init__()
        self.norm, self.hidden, self.linear = LayerNorm(dim), nn.Linear(dim, dim), nn.Linear(dim, classes)

    def forward(self, features: Features) -> Tensor:
        x = torch.tanh(self.hidden(self.norm(mean_map(features))))                          # (B, C)
        return self.linear(x)


def _size(params: int, gflops: float, head: int, reported: Mapping[str, float], *, dims: tuple[int, ...],
          kinds: str = "CCTT", **args: Any) -> Variant[CoAtNet]:
    """A size with heads of `head` channels; kinds: a letter a stage, C of convolutions and T of attention."""
    heads = tuple(dim // head if kind == "T" else 0 for dim, kind in zip(dims, kinds, strict=True))
    where = "table 4" if "gflops" in reported else "table 5"
    return variant(CoAtNet, Figures(params=params, gflops=gflops, reported=reported, where=where), dims=dims,
                   heads=heads, **args)


_MIXED: dict[str, Any] = dict(stem=192, kinds="CCCTT", depths=(2, 4, 8, 42, 2), stride=(2, 2, 2, 1, 2))

coatnet_0 = _size(25_036_820, 4.142, 32, dict(top1=81.6, params_m=25, gflops=4.2), depths=(2, 3, 5, 2),
                  dims=(96, 192, 384, 768))
coatnet_1 = _size(42_225_776, 8.239, 32, dict(top1=83.3, params_m=42, gflops=8.4), depths=(2, 6, 14, 2),
                  dims=(96, 192, 384, 768))
coatnet_2 = _size(74_684_744, 15.502, 32, dict(top1=84.1, params_m=75, gflops=15.7), depths=(2, 6, 14, 2),
                  dims=(128, 256, 512, 1024), stem=128)
coatnet_3 = _size(166_966_264, 34.372, 32, dict(top1=84.5, params_m=168, gflops=34.7), depths=(2, 6, 14, 2),
                  dims=(192, 384, 768, 1536), stem=192)
# the larger ones learned from other images first, and were tuned and judged at 512 pixels
coatnet_4 = _size(275_425_288, 60.236, 32, dict(top1_jft300m_512=89.11, params_m=275, gflops_512=361), stem=192,
                  dims=(192, 384, 768, 1536), depths=(2, 12, 28, 2))
coatnet_5 = _size(687_052_952, 142.181, 64, dict(top1_jft300m_512=89.77, params_m=688, gflops_512=812), stem=192,
                  dims=(256, 512, 1280, 2048), depths=(2, 12, 28, 2))
# table 12; with 3,072 channels instead of its 2,048 in the last stage this one would have the parameters of table 5
coatnet_6 = _size(1_348_435_040, 259.482, 128, dict(top1_jft3b_512=90.45, params_m=1470, gflops_512=1521),
                  dims=(192, 384, 768, 1536, 2048), **_MIXED)
coatnet_7 = _size(2_441_972_728, 457.873, 128, dict(top1_jft3b_512=90.88, params_m=2440, gflops_512=2586),
                  dims=(256, 512, 1024, 2048, 3072), **_MIXED)


def _by_head(heads: int) -> Fold:
    """There, a head's queries, keys and values stand beside each other; here, those of all heads do."""
    def ours(t: Tensor) -> Tensor:
        t = t.flatten(1) if t.ndim > 1 else t
        return t.unflatten(0, (heads, 3, -1)).transpose(0, 1).flatten(0, 2)

    def theirs(t: Tensor) -> Tensor:
        t = t.unflatten(0, (3, heads, -1)).transpose(0, 1).flatten(0, 2)
        return t[:, :, None, None] if t.ndim > 1 else t
    return Fold(ours, theirs)


def timm(settings: Mapping[str, Any]) -> Keys:
    """The names of timm's `coatnet_*_224`, which nobody has trained."""
    table = {"stem.conv1.*": "backbone.patch_embed.conv1.conv.*", "stem.norm1.*": "backbone.patch_embed.conv1.norm.*",
             "stem.conv2.*": "backbone.patch_embed.conv2.*", "head.norm.*": "head.norm.*",
             "head.pre_logits.fc.*": "head.hidden.*", "head.fc.*": "head.linear.*"}
    rows: list[Row] = []
    for i, heads in enumerate(settings["heads"]):
        there, here = f"stages.{i}.blocks.{{}}.", f"backbone.stages.{i}.{{}}."
        if not heads:
            table |= {there + "shortcut.expand.*":  here + "shortcut.proj.*",
                      there + "pre_norm.*":         here + "norm.*",
                      there + "conv1_1x1.*":        here + "widen.conv.*",
                      there + "norm1.*":            here + "widen.norm.*",
                      there + "conv2_kxk.*":        here + "filter.conv.*",
                      there + "norm2.*":            here + "filter.norm.*",
                      there + "se.fc1.*":           here + "squeeze.reduce.*",
                      there + "se.fc2.*":           here + "squeeze.expand.*",
                      there + "conv3_1x1.*":        here + "narrow.*"}
            continue
        flat = {"shortcut.expand": "mix.shortcut", "attn.proj": "mix.fn.out.proj", "mlp.fc1": "mlp.fn.fc1",
                "mlp.fc2": "mlp.fn.fc2"}
        rows += [Row((f"{there}{a}.weight",), f"{here}{b}.weight", AS_CONV) for a, b in flat.items()]
        rows.append(Row((there + "attn.qkv.*",), here + "mix.fn.qkv.*", _by_head(heads)))
        table |= {there + f"{a}.bias": here + f"{b}.bias" for a, b in flat.items()}
        table |= {f"stages.{i}.blocks.0.norm1.norm.*":                  f"backbone.stages.{i}.0.mix.norm.*",
                  there + "norm1.*":                                    here + "mix.norm.*",
                  there + "norm2.*":                                    here + "mlp.norm.*",
                  there + "attn.rel_pos.relative_position_bias_table":  here + "mix.fn.bias.table"}
    return Keys(table, rows=rows)


KEYS = {"timm": timm}
