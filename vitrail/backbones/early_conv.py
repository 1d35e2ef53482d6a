"""Early convolutions: a ViT that sees its image through a few plain convolutions is easier to train.

Xiao et al., NeurIPS 2021, arXiv:2106.14881. ViT_P is the ViT they compare with; ViT_C has the stem, and a block less.
"""
import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from vitrail.core.card import Figures, Idea, Paper, Variant, variant
from vitrail.core.errors import ModelError
from vitrail.core.keys import Fold, Keys, Row
from vitrail.nn import (Chain, Conv, LayerNorm, Mlp, PatchEmbed, PositionTable, Prefix, Head, SelfAttention, Stack,
                        TokenBody, class_token, conv_norm, grid_of, init, drop_path_rates, transformer_block)
from vitrail.nn.names import conv_norm_names

PAPER = Paper(title="Early Convolutions Help Transformers See Better", arxiv="2106.14881", authors="Xiao et al.",
              year=2021, venue="NeurIPS", code="facebookresearch/pycls", license="MIT",
              ideas=(Idea("backbones.vit", "section 3.1", "the network whose patches it replaces"),))


class ConvStem(nn.Module):
    """3 x 3 convolutions, each normed and rectified, and one of 1 x 1: (B, in_chans, H, W) -> (B, ⌈H/s⌉, ⌈W/s⌉, C).

    dims: widths of the 3 x 3 convolutions; one that is wider than its input halves the map, so s = 2 to the number of
    those. An image counts as three channels, whatever it has.
    """

    def __init__(self, dims: tuple[int, ...], dim: int, *, in_chans: int = 3):
        super().__init__()
        strides = [2 if b > a else 1 for a, b in zip((3, *dims), dims, strict=False)]
        self.stride = math.prod(strides)
        self.convs = Chain(*(conv_norm(a, b, 3, stride, act=nn.ReLU())
                             for a, b, stride in zip((in_chans, *dims), dims, strides, strict=False)))
        self.last = Conv(dims[-1], dim, 1)

    def forward(self, image: Tensor) -> Tensor:
        return self.last(self.convs(image.permute(0, 2, 3, 1)))


class EarlyConv(TokenBody):
    """PatchEmbed or, with `stem`, a ConvStem of these widths; a class token, learned positions, pre-norm blocks.

    image (B, 3, H, W) -> one map (B, ⌈H/p⌉, ⌈W/p⌉, dim) and the class token.
    Raises ModelError for a stem that does not reduce the image as much as patches of `patch` pixels do.
    """

    def __init__(self, *, image: int | tuple[int, int] = 224, patch: int = 16, stem: tuple[int, ...] = (),
                 dim: int = 384, depth: int = 12, heads: int = 6, mlp_ratio: float = 3.0, in_chans: int = 3,
                 drop_path: float = 0.0):
        super().__init__()
        self.channels, self.strides = (dim,), (patch,)
        self.patch_embed = ConvStem(stem, dim, in_chans=in_chans) if stem else PatchEmbed(patch, dim, in_chans=in_chans)
        if stem:
            self.stem_weights = ("patch_embed.convs.0.conv.weight",)
        if isinstance(self.patch_embed, ConvStem) and self.patch_embed.stride != patch:
            raise ModelError(f"stem={stem} makes one token of {self.patch_embed.stride} x {self.patch_embed.stride} "
                             f"pixels, patch={patch}: a width that grows halves the map, and {patch} is needed")
        self.prefix, self.position = Prefix(1, dim), PositionTable(grid_of(image, patch), dim, prefix=1)
        self.blocks = Stack(transformer_block(SelfAttention(dim, heads), dim, mlp_ratio, p)
                            for p in drop_path_rates(drop_path, depth))
        self.norm = LayerNorm(dim)
        for part in self.modules():                         # the published code leaves the class token at zero
            if isinstance(part, SelfAttention):             # torch's own MultiheadAttention
                nn.init.xavier_uniform_(part.qkv.proj.weight)
                nn.init.zeros_(part.qkv.proj.bias)
                nn.init.zeros_(part.out.proj.bias)
            elif isinstance(part, Mlp):
                for linear in (part.fc1, part.fc2):
                    nn.init.xavier_uniform_(linear.weight)
                    nn.init.normal_(linear.bias, std=1e-6)
            elif isinstance(part, PatchEmbed):
                nn.init.trunc_normal_(part.proj.weight, std=part.proj.weight[0].numel() ** -0.5)
                nn.init.zeros_(part.proj.bias)              # type: ignore[arg-type]
            elif isinstance(part, Conv):
                # by the channels that go out and not by the fan of nine times as many; twice where a ReLU follows
                nn.init.normal_(part.weight, std=((2 if part.bias is None else 1) / part.out_channels) ** 0.5)
                if part.bias is not None:
                    nn.init.zeros_(part.bias)
        nn.init.normal_(self.position.table, std=0.02)

    def make_head(self, classes: int) -> nn.Module:
        """A linear layer, born zero, on the class token."""
        return Head(self.channels[-1], classes, class_token, init_weights=init.zero_linears)


def _size(params: int, gflops: float, reported: float = 0.0, **args: Any) -> Variant[EarlyConv]:
    """A size of table 1, named there by its rounded cost. No weights were released."""
    figures = Figures(params=params, gflops=gflops, reported={"gflops": reported} if reported else {}, where="table 1")
    return variant(EarlyConv, figures, **args)


_1: dict[str, Any] = dict(dim=192, heads=3, mlp_ratio=3.0)
_4: dict[str, Any] = dict(dim=384, heads=6, mlp_ratio=3.0)
_18: dict[str, Any] = dict(dim=768, heads=12, mlp_ratio=4.0)
_36: dict[str, Any] = dict(dim=1024, heads=16, mlp_ratio=4.0)
_DEEP = (64, 128, 128, 256, 256, 512)

vit_p_1gf = _size(4_830_376, 1.079, depth=12, **_1)
vit_p_4gf = _size(18_507_112, 3.902, depth=12, **_4)
vit_p_18gf = _size(86_567_656, 17.564, depth=12, **_18)
vit_p_36gf = _size(178_364_392, 35.972, depth=14, **_36)
vit_c_1gf = _size(4_567_936, 1.076, 1.1, depth=11, stem=(24, 48, 96, 192), **_1)
vit_c_4gf = _size(17_754_136, 3.959, 4.0, depth=11, stem=(48, 96, 192, 384), **_4)
vit_c_18gf = _size(81_573_160, 17.711, 17.7, depth=11, stem=_DEEP, **_18)
vit_c_36gf = _size(167_796_008, 35.002, 35.0, depth=13, stem=_DEEP, **_36)


def official(settings: Mapping[str, Any]) -> Keys:
    """The names of the authors' code, in which a sequence comes before the batch."""
    block, here = "encoder.block_{}.", "backbone.blocks.{}."
    table = {
        **conv_norm_names("stem.", "backbone.patch_embed.", ("cstem{}_conv", "cstem{}_bn", "convs.{}")),
        "stem.patchify.*": "backbone.patch_embed.proj.*", "stem.cstem_last_conv.*": "backbone.patch_embed.last.*",
        "class_token": "backbone.prefix.tokens", "encoder.ln.*": "backbone.norm.*", "head.head_fc.*": "head.linear.*",
        block + "ln_1.*":                           here + "mix.norm.*",
        block + "ln_2.*":                           here + "mlp.norm.*",
        block + "self_attention.block.in_proj_*":   here + "mix.fn.qkv.proj.*",
        block + "self_attention.block.out_proj.*":  here + "mix.fn.out.proj.*",
        block + "mlp_block.linear_{}.*":            here + "mlp.fn.fc{}.*",
    }
    turn = Fold(lambda t: t.transpose(0, 1), lambda t: t.transpose(0, 1))
    return Keys(table, rows=[Row(("pos_embedding",), "backbone.position.table", turn)])


KEYS = {"official": official}
