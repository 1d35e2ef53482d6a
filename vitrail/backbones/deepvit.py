"""DeepViT: in the deep layers of a ViT the attention maps grow alike; mixing the heads' maps makes them differ again.

Zhou et al., 2021, arXiv:2103.11886.
"""
from typing import Any

from torch import Tensor, nn

from vitrail.attention.re_attention import ReAttention
from vitrail.backbones.vit import BLOCKS
from vitrail.core.card import Figures, Idea, Paper, Variant, variant
from vitrail.core.errors import ModelError
from vitrail.core.keys import AS_CONV, Keys, Row
from vitrail.nn import (Block, Conv, DropPath, Head, LayerNorm, Mlp, PatchEmbed, PositionTable, Prefix, Residual,
                        SelfAttention, Stack, TokenBody, class_token, conv_norm, drop_path_rates, grid_of, init,
                        pad_image)

PAPER = Paper(title="DeepViT: Towards Deeper Vision Transformer", arxiv="2103.11886", authors="Zhou et al.", year=2021,
              code="zhoudaquan/dvit_repo", license="MIT", builds_on=("attention.re_attention", "backbones.vit"),
              ideas=(Idea("attention.re_attention", "abstract", "its attention"),
                     Idea("backbones.vit", "section 3", "the network that it deepens")))


class ConvPatches(nn.Module):
    """Two convolutions of `inner` channels, the first one halving the image, then patches of what they see.

    image (B, 3, H, W) -> (B, ⌈H/p⌉, ⌈W/p⌉, dim). Padded with zeros below and to the right, as `PatchEmbed`.
    """

    def __init__(self, patch: int, inner: int, dim: int, *, in_chans: int = 3):
        super().__init__()
        if patch < 2 or patch % 2:
            raise ModelError(f"patch={patch}: the first convolution halves the image, so a patch is an even number of "
                             f"pixels wide")
        self.patch = patch
        self.conv1 = conv_norm(in_chans, inner, 7, 2, act=nn.ReLU())
        self.conv2 = conv_norm(inner, inner, 3, act=nn.ReLU())
        self.proj = Conv(inner, dim, patch // 2, patch // 2)

    def forward(self, image: Tensor) -> Tensor:
        x = pad_image(image, self.patch).permute(0, 2, 3, 1)            # (B, H, W, C)
        return self.proj(self.conv2(self.conv1(x)))


class Times(nn.Module):
    """x · factor."""

    def __init__(self, factor: float):
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


class DeepViT(TokenBody):
    """A ViT of `plain` blocks of self-attention and, after them, blocks of re-attention, `depth` together.

    scale:  r of a block x + f(LN(r x)) / r, as released; the paper has none.
    gain:   what re-attention's maps are multiplied by behind the norm.
    stem:   channels of the convolutions before the patches; 0 for patches of the image itself.
    image (B, 3, H, W) -> one map (B, ⌈H/p⌉, ⌈W/p⌉, dim) and the class token.
    Raises ModelError where more blocks are plain than there are, or r is not positive.
    """

    def __init__(self, *, image: int | tuple[int, int] = 224, patch: int = 16, dim: int = 384, depth: int = 16,
                 heads: int = 12, mlp_ratio: float = 3.0, plain: int = 0, scale: float = 1.0, gain: float = 1.0,
                 stem: int = 0, in_chans: int = 3, drop_path: float = 0.0):
        super().__init__()
        if not 0 <= plain <= depth or scale <= 0:
            raise ModelError(f"plain={plain} of depth={depth} blocks, scale={scale}: say 0 to {depth} plain blocks, "
                             f"and a scale above 0")
        self.channels, self.strides = (dim,), (patch,)
        self.patch_embed = (ConvPatches(patch, stem, dim, in_chans=in_chans) if stem else
                         PatchEmbed(patch, dim, in_chans=in_chans))
        if stem:
            self.stem_weights = ("patch_embed.conv1.conv.weight",)
        self.prefix, self.position = Prefix(1, dim), PositionTable(grid_of(image, patch), dim, prefix=1)

        def residual(fn: nn.Module, p: float) -> Residual:      # a norm sees of r no more than its epsilon
            return Residual(fn, nn.LayerNorm(dim, eps=1e-6 / scale ** 2), drop=DropPath(p),
                            scale=None if scale == 1 else Times(1 / scale))

        def mixer(at: int) -> nn.Module:
            return SelfAttention(dim, heads) if at < plain else ReAttention(dim, heads, qkv_bias=True, gain=gain)

        self.blocks = Stack(Block(mix=residual(mixer(at), p), mlp=residual(Mlp(dim, int(dim * mlp_ratio)), p))
                            for at, p in enumerate(drop_path_rates(drop_path, depth)))
        self.norm = LayerNorm(dim)
        init.truncated(self)

    def make_head(self, classes: int) -> nn.Module:
        return Head(self.channels[-1], classes, class_token, init_weights=init.truncated_linears)


def _size(params: int, gflops: float, top1: float, *, image: int = 224, **args: Any) -> Variant[DeepViT]:
    """What the authors released is on Google Drive, behind a page that asks, so no address stands here: fetch a file
    by hand and load it with keys="official"."""
    return variant(DeepViT, Figures(params=params, gflops=gflops, image=image, reported={"top1": top1},
                                    where="README of zhoudaquan/dvit_repo"), image=image, **args)


_S: dict[str, Any] = dict(dim=396, depth=16, plain=11, scale=0.5, gain=33 ** -0.5, stem=64)
_L: dict[str, Any] = dict(dim=420, depth=32, plain=20, scale=0.5, stem=64)

deepvit_16b = _size(24_426_472, 5.272, 79.10, depth=16)
deepvit_24b = _size(36_261_160, 7.879, 79.99, depth=24)
deepvit_32b = _size(48_095_848, 10.486, 80.90, depth=32)
# the README says 24.5 and 48.1 million parameters of these two, which are those of 16b and 32b: its code has more
deepvit_s = _size(27_312_572, 6.361, 82.3, **_S)
deepvit_l = _size(58_883_564, 13.149, 83.1, **_L)
deepvit_l_384 = _size(59_043_164, 44.792, 84.25, image=384, **_L)

OFFICIAL = Keys({
    "patch_embed.conv{}.weight":            "backbone.patch_embed.conv{}.conv.weight",
    "patch_embed.bn{}.*":                   "backbone.patch_embed.conv{}.norm.*",
    "patch_embed.proj.*":                   "backbone.patch_embed.proj.*",
    "cls_token":                            "backbone.prefix.tokens",
    "pos_embed":                            "backbone.position.table",
    "blocks.{}.attn.reatten_matrix.bias":   "backbone.blocks.{}.mix.fn.offset",
    "blocks.{}.attn.var_norm.*":            "backbone.blocks.{}.mix.fn.norm.*",
    **BLOCKS,
    "head.*":                               "head.linear.*",
}, rows=[Row(("blocks.{}.attn.reatten_matrix.weight",), "backbone.blocks.{}.mix.fn.theta", AS_CONV)])
KEYS = {"official": lambda settings: OFFICIAL}
