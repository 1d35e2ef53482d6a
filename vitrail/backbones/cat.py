"""CAT: attend inside patches of the map, and then let the patches attend to each other, in every channel alone.

Lin et al., ICME 2022, arXiv:2106.05786.
"""
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from vitrail.backbones.swin import PatchMerging, WindowAttention, merging
from vitrail.core.card import Figures, Idea, Paper, Variant, variant
from vitrail.core.keys import Keys
from vitrail.nn import (Attend, Chain, Features, Merge, PatchEmbed, PositionTable, Head, Split, Stack, Strided, Windows,
                        each_stage, grid_of, init, mean_map, pyramid, drop_path_rates, transformer_block)

PAPER = Paper(title="CAT: Cross Attention in Vision Transformer", arxiv="2106.05786", authors="Lin et al.", year=2022,
              venue="ICME", code="linhezheng19/CAT", license="MIT", builds_on=("backbones.swin",),
              ideas=(Idea("backbones.vit", "introduction", "patches as tokens"),
                     Idea("backbones.swin", "method", "relative positions inside a patch of the map")))


class CrossPatchAttention(nn.Module):
    """Self-attention between the patches of a map, for every channel alone (section 3.1.2): (B, H, W, C) -> same.

    A patch's vector is its window² values of one channel; all channels share one projection, and there is one head.
    groups: what stands at the same place of each patch; the weights are the same for all places.
    """

    def __init__(self, window: int):
        super().__init__()
        self.groups = Strided(stride=window)
        self.qkv, self.attend, self.out = Split(window * window, 1, 3), Attend(), Merge(window * window)

    def forward(self, x: Tensor) -> Tensor:                                     # (B, H, W, C)
        H, W = x.shape[1:3]
        x = self.groups.split(x).permute(0, 3, 2, 1)                            # (B, C, N, n)
        q, k, v = (t.transpose(1, 2) for t in self.qkv(x))                      # (B, 1, C, N, n)
        x = self.out(self.attend(q, k, v).transpose(1, 2))                      # (B, C, N, n)
        return self.groups.merge(x.permute(0, 3, 2, 1), H, W)


class CAT(nn.Module):
    """Four stages of triples: inside patches, between them, inside them (section 3.2), each with an Mlp.

    image (B, 3, H, W) -> a map (B, ⌈H/s⌉, ⌈W/s⌉, C) a stage, s = patch, 2 patch, 4 patch, ...; the last one normed.
    depths: triples a stage. window: the side of a patch of the map. The table of positions, which the
    released configurations switch on, is resampled for images of another size.
    """

    stem_weights = ("patch_embed.proj.weight",)

    def __init__(self, *, image: int | tuple[int, int] = 224, patch: int = 4, dim: int = 96,
                 depths: tuple[int, ...] = (1, 1, 3, 1), heads: tuple[int, ...] = (3, 6, 12, 24), window: int = 7,
                 mlp_ratio: float = 4.0, in_chans: int = 3, drop_path: float = 0.0):
        super().__init__()
        each_stage(depths=depths, heads=heads)
        self.channels = tuple(dim << i for i in range(len(depths)))
        self.strides = tuple(patch << i for i in range(len(depths)))
        self.patch_embed = PatchEmbed(patch, dim, in_chans=in_chans, norm=nn.LayerNorm(dim))
        self.position = PositionTable(grid_of(image, patch), dim)
        drops = iter(drop_path_rates(drop_path, sum(depths)))

        def triple(width: int, heads: int, drop: float) -> Chain:
            def block(mixer: nn.Module) -> nn.Module:
                return transformer_block(mixer, width, mlp_ratio, drop, norm=nn.LayerNorm)
            return Chain(pre=block(WindowAttention(width, heads, Windows(window))),
                         cross=block(CrossPatchAttention(window)),
                         post=block(WindowAttention(width, heads, Windows(window))))

        def stage(i: int, width: int) -> Chain:
            blocks = Stack(triple(width, heads[i], next(drops)) for _ in range(depths[i]))
            return Chain(down=PatchMerging(width // 2), blocks=blocks) if i else Chain(blocks=blocks)

        self.stages = nn.ModuleList(stage(i, width) for i, width in enumerate(self.channels))
        self.norm = nn.LayerNorm(self.channels[-1])
        init.truncated(self)

    def forward(self, image: Tensor) -> Features:
        x = self.patch_embed(image)                                                # (B, H, W, C)
        grid = x.shape[1:3]
        x = self.position(x.flatten(1, 2), grid)                                # (B, N, C)
        *finer, x = pyramid(x.unflatten(1, grid), self.stages)                  # (B, h, w, D)
        return Features(maps=(*finer, self.norm(x)))

    def make_head(self, classes: int) -> nn.Module:
        """A linear layer on the mean of the last map."""
        return Head(self.channels[-1], classes, mean_map, init_weights=init.truncated_linears)


def _size(params: int, gflops: float, reported: float, top1: float, **args: Any) -> Variant[CAT]:
    return variant(CAT, Figures(params=params, gflops=gflops, reported={"gflops": reported, "top1": top1},
                                where="README of linhezheng19/CAT"), **args)


cat_t = _size(16_870_996, 2.770, 2.8, 80.3, dim=64, heads=(2, 4, 8, 16))
cat_s = _size(37_294_258, 6.063, 5.9, 81.8)
cat_b = _size(51_531_922, 8.928, 8.9, 82.8, depths=(1, 1, 6, 1))

_THERE, _HERE = "layers.{}.", "backbone.stages.{}.blocks.{}."
_TABLE = {"ape": "backbone.position.table", "patch_embed.*": "backbone.patch_embed.*", "norm.*": "backbone.norm.*",
          "head.*": "head.linear.*"}
for _theirs, _ours in (("pre_ipsa", "pre."), ("cpsa", "cross."), ("post_ipsa", "post.")):
    _TABLE |= {
        f"{_THERE}{_theirs}_blocks.{{}}.norm1.*":       _HERE + _ours + "mix.norm.*",
        f"{_THERE}{_theirs}_blocks.{{}}.attn.qkv.*":    _HERE + _ours + "mix.fn.qkv.proj.*",
        f"{_THERE}{_theirs}_blocks.{{}}.attn.proj.*":   _HERE + _ours + "mix.fn.out.proj.*",
        f"{_THERE}{_theirs}_blocks.{{}}.attn.relative_position_bias_table":     _HERE + _ours + "mix.fn.bias.table",
        f"{_THERE}{_theirs}_blocks.{{}}.norm2.*":       _HERE + _ours + "mlp.norm.*",
        f"{_THERE}{_theirs}_blocks.{{}}.mlp.*":         _HERE + _ours + "mlp.fn.*",
    }


def official(settings: Mapping[str, Any]) -> Keys:
    """The authors' names: three lists of blocks a stage."""
    return Keys({**_TABLE, **merging(len(settings["depths"]))},
                drop=("layers.{}.*_blocks.{}.attn.relative_position_index",))


KEYS = {"official": official}
