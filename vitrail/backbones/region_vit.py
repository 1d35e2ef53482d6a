"""RegionViT: a few regional tokens see the whole image, and tell the local tokens of their own region (Chen et al.)."""
from collections.abc import Mapping
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.core.card import Figures, Idea, Paper, Variant, Weights, variant
from vitrail.core.errors import ModelError
from vitrail.core.keys import Fold, Keys, Row
from vitrail.nn import (Attend, Chain, Conv, DropPath, Elsewhere, Features, LayerNorm, Merge, Mlp, Head,
                        RelativeBias, Split, Stack, Windows, init, pad_image, drop_path_rates)
from vitrail.ops.windows import by_size

PAPER = Paper(title="RegionViT: Regional-to-Local Attention for Vision Transformers", arxiv="2106.02689",
              authors="Chen et al.", year=2022, venue="ICLR", code="IBM/RegionViT", license="Apache-2.0",
              ideas=(Idea("backbones.vit", "introduction", "attention over patches"),
                     Idea("backbones.pvt", "related work", "a pyramid of stages"),
                     Idea("backbones.swin", "method", "relative positions of local tokens")))
PATCH = 4       # pixels of a local token, down and across


class LocalTokens(nn.Module):
    """Patches of 4 x 4 pixels that overlap, by three small convolutions or a large one: (B, ⌈H/4⌉, ⌈W/4⌉, C)."""

    def __init__(self, dim: int, convs: int, *, in_chans: int = 3):
        super().__init__()
        self.convs, a, b = convs, dim // 4, dim // 2
        self.proj = Conv(in_chans, dim, 2 * PATCH, PATCH, PATCH - 1) if convs == 1 else Chain(
            Conv(in_chans, a, 3, 2, 1), nn.LayerNorm(a), nn.GELU(), Conv(a, b, 3, 2, 1), nn.LayerNorm(b), nn.GELU(),
            Conv(b, dim, 3, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        # the small ones round up by themselves; the large one would leave out the last of 4 n + 1 pixels
        image = image if self.convs == 3 else pad_image(image, PATCH)
        return self.proj(image.permute(0, 2, 3, 1))


class RegionalTokens(nn.Module):
    """One token for each `size` x `size` pixels: (B, h, w, C). The image stands in the middle of the zeros around it.

    As released, where one side needs zeros the other one gets them too, a whole region's where it would need none.
    """

    def __init__(self, size: int, dim: int, *, in_chans: int = 3):
        super().__init__()
        self.size, self.proj = size, Conv(in_chans, dim, size, size)

    def forward(self, image: Tensor) -> Tensor:
        bottom, right = (self.size - side % self.size for side in image.shape[2:])
        if bottom < self.size or right < self.size:
            image = F.pad(image, (right // 2, right - right // 2, bottom // 2, bottom - bottom // 2))
        return self.proj(image.permute(0, 2, 3, 1))


def edges(size: int, grid: tuple[int, int], H: int, W: int, like: Tensor) -> Tensor | None:
    """(G, 1 + n, 1 + n), added to scores: what a region and its local tokens may see where zeros fill up its window.

    A map of H x W places in a grid of windows. As released, the window in the corner allows what either edge does, so
    that some of its zeros are seen.
    """
    h, w = grid
    if (H, W) == (h * size, w * size):
        return None

    def make() -> Tensor:
        at = torch.arange(size, device=like.device).expand(size, size)
        real = (at.T < size - (h * size - H), at < size - (w * size - W))
        down, across = (F.pad(r.flatten(), (1, 0), value=True) for r in real)
        down, across = (r[:, None] & r for r in (down, across))                             # (M, M)
        seen = torch.ones(h, w, *down.shape, dtype=torch.bool, device=like.device)          # (h, w, M, M)
        seen[:, -1], seen[-1], seen[-1, -1] = across, down, down | across
        mask = torch.zeros(seen.shape, dtype=like.dtype, device=like.device)
        return mask.masked_fill(~seen, torch.finfo(like.dtype).min).flatten(0, 1)
    return by_size(("region_edges", size, grid, H, W), like, make)


def skipping(drop: DropPath, x: Tensor) -> Tensor:
    """Stochastic depth window by window, not image by image, as released: (B, G, M, C) -> same."""
    return drop(x.flatten(0, 1)).view_as(x)


class RegionalToLocal(nn.Module):
    """The regions look at each other, then each one and its n local tokens do, by one and the same attention
    (section 3.2); local tokens know their offsets from each other.

    x (B, H, W, C), regions (B, h, w, C) -> (B, G, 1 + n, C), each region before its own tokens.
    """

    def __init__(self, dim: int, heads: int, window: int, drop: float):
        super().__init__()
        self.groups, self.windows = Elsewhere("the regions, and then at the tokens of its own region"), Windows(window)
        self.norm_regions, self.norm = LayerNorm(dim), LayerNorm(dim)
        self.qkv, self.attend, self.out = Split(dim, heads, 3), Attend(), Merge(dim)
        self.bias, self.drop = RelativeBias(window, heads), DropPath(drop)

    def forward(self, x: Tensor, regions: Tensor, mask: Tensor | None) -> Tensor:
        r = regions.flatten(1, 2)                                               # (B, G, C)
        q, k, v = self.qkv(self.norm_regions(r))                                # (B, E, G, D)
        r = r + self.drop(self.out(self.attend(q, k, v)))                       # (B, G, C)
        x = torch.cat([r[:, :, None], self.windows.split(x)], 2)                # (B, G, M, C)
        bias = F.pad(self.bias(), (1, 0, 1, 0))                                 # (E, M, M)
        if mask is not None:
            bias = bias + mask[:, None]                                         # (G, E, M, M)
        q, k, v = self.qkv(self.norm(x))                                        # (B, G, E, M, D)
        return x + skipping(self.drop, self.out(self.attend(q, k, v, bias)))


class RegionBlock(nn.Module):
    """Regional-to-local attention, then an Mlp on every token: (x (B, H, W, C), regions (B, h, w, C)) -> same."""

    def __init__(self, dim: int, heads: int, window: int, mlp_ratio: float, drop: float):
        super().__init__()
        self.mix = RegionalToLocal(dim, heads, window, drop)
        self.norm, self.mlp, self.drop = LayerNorm(dim), Mlp(dim, int(dim * mlp_ratio)), DropPath(drop)

    def forward(self, streams: tuple[Tensor, Tensor], mask: Tensor | None) -> tuple[Tensor, Tensor]:
        (x, regions), (H, W) = streams, streams[0].shape[1:3]
        y = self.mix(x, regions, mask)                                          # (B, G, M, C)
        y = y + skipping(self.drop, self.mlp(self.norm(y)))                     # (B, G, M, C)
        return self.mix.windows.merge(y[:, :, 1:], H, W), y[:, :, 0].view_as(regions)


class Stage(nn.Module):
    """Both streams shrunk by the same weights, blocks over both, and where wanted positions (PEG) after the first one:
    (x (B, H, W, C), regions (B, h, w, C)) -> both at half the size and twice the width; in stage 0, as they were."""

    def __init__(self, down: nn.Module, blocks: list[RegionBlock], window: int, peg: nn.Module | None):
        super().__init__()
        self.down, self.first, self.rest = down, Stack(blocks[:1]), Stack(blocks[1:])
        self.window, self.peg = window, peg

    def forward(self, x: Tensor, regions: Tensor) -> tuple[Tensor, Tensor]:
        x, regions = self.down(x), self.down(regions)
        (H, W), (h, w), size = x.shape[1:3], regions.shape[1:3], self.window

        def filled(x: Tensor) -> Tensor:            # each region has a whole window
            return F.pad(x, (0, 0, 0, w * size - W, 0, h * size - H))
        mask = edges(size, (h, w), H, W, like=x)
        x, regions = self.first((filled(x), regions), mask)
        if self.peg is not None:
            x = x[:, :H, :W]
            x, regions = filled(x + self.peg(x)), regions + self.peg(regions)
        x, regions = self.rest((x, regions), mask)
        return x[:, :H, :W], regions


class RegionViT(nn.Module):
    """Four stages over local tokens and regional ones, a regional token for each window of local tokens.

    convs: how many convolutions make the local tokens, 1 or 3. peg: positions by a convolution in every stage.
    image (B, 3, H, W) -> local maps (B, ⌈H/s⌉, ⌈W/s⌉, C), s = 4, 8, 16, 32, and the last regional tokens, normed.
    Raises ModelError for settings that do not fit together.
    """

    def __init__(self, *, dim: int = 96, depths: tuple[int, ...] = (2, 2, 8, 2),
                 heads: tuple[int, ...] = (3, 6, 12, 24), window: int = 7, mlp_ratio: float = 4.0, convs: int = 3,
                 peg: bool = False, in_chans: int = 3, drop_path: float = 0.0):
        super().__init__()
        if len(depths) != len(heads) or min(depths) < 1:
            raise ModelError(f"depths={depths} and heads={heads}: each stage has one of both, and at least one block")
        if convs not in (1, 3) or convs == 3 and dim % 4:
            raise ModelError(f"convs={convs} and dim={dim}: say 1 convolution, or 3 and a dim that 4 divides")
        self.channels = tuple(dim << i for i in range(len(depths)))
        self.strides = tuple(PATCH << i for i in range(len(depths)))
        self.local_tokens = LocalTokens(dim, convs, in_chans=in_chans)
        self.regional_tokens = RegionalTokens(PATCH * window, dim, in_chans=in_chans)
        first = "local_tokens.proj.weight" if convs == 1 else "local_tokens.proj.0.weight"
        self.stem_weights = (first, "regional_tokens.proj.weight")
        drops = iter(drop_path_rates(drop_path, sum(depths)))

        def stage(i: int, width: int) -> Stage:
            half = width // 2
            down = Chain(norm=nn.LayerNorm(half), act=nn.GELU(), conv=Conv(half, width, 3, 2, 1, groups=half))
            blocks = [RegionBlock(width, heads[i], window, mlp_ratio, next(drops)) for _ in range(depths[i])]
            return Stage(down if i else nn.Identity(), blocks, window,
                         Conv(width, width, 3, padding=1, groups=width, bias=False) if peg else None)

        self.stages = nn.ModuleList(stage(i, width) for i, width in enumerate(self.channels))
        self.norm = LayerNorm(self.channels[-1])
        init.truncated(self)

    def forward(self, image: Tensor) -> Features:
        x = self.local_tokens(image)                                            # (B, H, W, C)
        regions, maps = self.regional_tokens(image), []
        for stage in self.stages:
            x, regions = stage(x, regions)
            maps.append(x)
        return Features(maps=tuple(maps), prefix=self.norm(regions.flatten(1, 2)))

    def make_head(self, classes: int) -> nn.Module:
        return Head(self.channels[-1], classes, mean_region, init_weights=init.truncated_linears)


def mean_region(f: Features) -> Tensor:
    """The mean of the regional tokens: (B, C)."""
    return cast(Tensor, f.prefix).mean(1)


def _size(params: int, gflops: float, name: str = "", top1: float = 0.0, **args: Any) -> Variant[RegionViT]:
    """With the release that the README links, where it links one for classification."""
    source = f"https://github.com/{PAPER.code}/releases/download/weights-v0.1/{name}.pth"
    found = Weights(name="in1k", source=source, keys="official", inside="model", license=PAPER.license,
                    reported={"top1": top1}, where="README of IBM/RegionViT")
    return variant(RegionViT, Figures(params=params, gflops=gflops), *([found] if name else []), **args)


_S: dict[str, Any] = dict(dim=96, heads=(3, 6, 12, 24))
_B: dict[str, Any] = dict(dim=128, heads=(4, 8, 16, 32), depths=(2, 2, 14, 2), convs=1)

regionvit_ti = _size(13_842_676, 2.415, "RegionViT-Ti", 80.4, dim=64, heads=(2, 4, 8, 16))
regionvit_s = _size(30_586_618, 5.339, "RegionViT-S", 82.6, **_S)
regionvit_m = _size(41_215_906, 7.410, depths=(2, 2, 14, 2), convs=1, **_S)      # the README links the file of S here
regionvit_b = _size(72_747_232, 13.046, "RegionViT-B", 83.2, **_B)
regionvit_s_w14 = _size(31_354_714, 7.887, window=14, **_S)
regionvit_s_w14_peg = _size(31_367_674, 7.892, window=14, peg=True, **_S)
regionvit_b_w14 = _size(73_825_120, 17.433, window=14, **_B)
regionvit_b_w14_peg = _size(73_842_400, 17.439, window=14, peg=True, **_B)

_NORM = Fold(lambda t: t.flatten(), lambda t: t[None, :, None, None])


def _bias(window: int) -> Fold:
    """Their table (H, offsets) counts key from query, from the middle of the window on, and around."""
    n, turn = 2 * window - 1, window - 1 - window // 2
    return Fold(lambda t: t.unflatten(1, (n, n)).flip(1, 2).roll((-turn, -turn), (1, 2)).flatten(1).T.contiguous(),
                lambda t: t.T.unflatten(1, (n, n)).roll((turn, turn), (1, 2)).flip(1, 2).flatten(1).contiguous())


def keys(settings: Mapping[str, Any]) -> Keys:
    """The authors' names: what shrinks the streams is the first block of a stage, and stands there twice."""
    table = {"patch_embed.*": "backbone.local_tokens.*", "cls_token.*": "backbone.regional_tokens.*",
             "norm.*": "backbone.norm.*", "head.*": "head.linear.*", "layers.{}.peg.*": "backbone.stages.{}.peg.*",
             "layers.{}.block.0.proj.2.*": "backbone.stages.{}.down.conv.*"}
    rows = [Row(("layers.{}.block.0.proj.0.*",), "backbone.stages.{}.down.norm.*", _NORM)]
    rows += [Row((f"patch_embed.proj.{i}.*",), f"backbone.local_tokens.proj.{i}.*", _NORM) for i in (1, 4)]
    for at in range(max(settings["depths"])):
        there = f"layers.{{}}.block.{at + 1}."
        here = "backbone.stages.{}." + ("first.0." if at == 0 else f"rest.{at - 1}.")
        table |= {there + "norm0.*": here + "mix.norm_regions.*", there + "norm1.*": here + "mix.norm.*",
                  there + "attn.qkv.*": here + "mix.qkv.proj.*", there + "attn.proj.*": here + "mix.out.proj.*",
                  there + "norm2.*": here + "norm.*", there + "mlp.*": here + "mlp.*"}
        rows.append(Row((there + "attn.rel_pos",), here + "mix.bias.table", _bias(settings["window"])))
    return Keys(table, rows=rows, drop=("layers.{}.block.0.proj_cls.*",))


KEYS = {"official": keys}
