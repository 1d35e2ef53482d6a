"""Words for maps (B, H, W, C): convolutions see them as channels-last memory, through a view."""
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.ops.windows import (fold_strided, fold_windows, pad_to, put_windows, shift_mask, take_windows,
                                 unfold_strided, unfold_windows)


class Conv(nn.Conv2d):
    """A convolution on a map (B, H, W, C); weights stay OIHW."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class BatchNorm(nn.BatchNorm2d):
    """Batch normalisation over the channels of a map (B, H, W, C)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class AvgPool(nn.AvgPool2d):
    """The mean over size x size places of a map, of which those beyond the edge do not count:
    (B, H, W, C) -> (B, ⌈H/stride⌉, ⌈W/stride⌉, C), for an odd size, and for one that equals the stride."""

    def __init__(self, size: int, stride: int):
        super().__init__(size, stride, size // 2 if size % 2 else 0, ceil_mode=size % 2 == 0, count_include_pad=False)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class MaxPool(nn.MaxPool2d):
    """The maximum of size x size places of a map; the sizes as for `AvgPool`."""

    def __init__(self, size: int, stride: int):
        super().__init__(size, stride, size // 2 if size % 2 else 0, ceil_mode=size % 2 == 0)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class PoolCells(nn.Module):
    """The means over size x size cells that cover a map of any size: (B, H, W, C) -> (B, size, size, C)."""

    def __init__(self, size: int):
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(x.permute(0, 3, 1, 2), self.size).permute(0, 2, 3, 1)


class PatchEmbed(nn.Module):
    """An image (B, in_chans, H, W) as a map of patches (B, ⌈H/p⌉, ⌈W/p⌉, C), each projected by one matrix.

    A size that p does not divide is padded with zeros below and to the right.
    """

    def __init__(self, patch: int, dim: int, *, in_chans: int = 3, norm: nn.Module | None = None):
        super().__init__()
        self.patch = patch
        self.proj, self.norm = nn.Conv2d(in_chans, dim, patch, patch), norm or nn.Identity()

    def forward(self, image: Tensor) -> Tensor:
        return self.norm(self.proj(pad_image(image, self.patch)).permute(0, 2, 3, 1))


class MapPatchEmbed(nn.Module):
    """Patches of a map, each projected by one matrix, then normed: (B, H, W, channels) -> (B, ⌈H/p⌉, ⌈W/p⌉, C).

    What begins a stage of PVT and of those that build on it. A size that p does not divide is padded as in
    `PatchEmbed`.
    """

    def __init__(self, patch: int, channels: int, dim: int, norm: nn.Module):
        super().__init__()
        self.patch, self.proj, self.norm = patch, Conv(channels, dim, patch, patch), norm

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.proj(pad_image(x.permute(0, 3, 1, 2), self.patch).permute(0, 2, 3, 1)))


def pad_image(image: Tensor, patch: int) -> Tensor:
    """An image (B, C, H, W) with zeros below and to the right, up to multiples of patch."""
    bottom, right = -image.shape[2] % patch, -image.shape[3] % patch
    # a program exported for open sizes pads by what it finds, which may be nothing
    known = isinstance(bottom, int) and isinstance(right, int)
    return F.pad(image, (0, right, 0, bottom)) if not known or bottom or right else image


class Prefix(nn.Module):
    """Learned tokens put before a sequence: (B, N, C) -> (B, P + N, C)."""

    def __init__(self, count: int, dim: int):
        super().__init__()
        self.tokens = nn.Parameter(torch.zeros(1, count, dim))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.tokens.expand(x.shape[0], -1, -1), x], 1)


class Windows:
    """Windows of size x size tokens of a map, cyclically shifted or not; `merge` undoes `split`.

    A map that the size does not divide is padded with zeros below and to the right; an axis with no more
    than one window is not shifted (Liu et al., arXiv:2103.14030, section 3.2).
    """

    def __init__(self, size: int, shift: int = 0):
        self.size, self.shift = size, shift

    def shifts(self, H: int, W: int) -> tuple[int, int]:
        return (self.shift if H > self.size else 0, self.shift if W > self.size else 0)

    def split(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, G, n, C)"""
        dy, dx = self.shifts(*x.shape[1:3])
        x = pad_to(x, self.size)
        if not (dy or dx):
            return fold_windows(x, self.size)
        if _gathers(x):
            return take_windows(x, self.size, (dy, dx))
        return fold_windows(x.roll((-dy, -dx), (1, 2)), self.size)

    def mask(self, H: int, W: int, like: Tensor) -> Tensor | None:
        """(G, n, n) of 0 and -inf where a shift brought strangers together, or None."""
        shift, s = self.shifts(H, W), self.size
        return shift_mask(H + -H % s, W + -W % s, s, shift, like) if any(shift) else None

    def merge(self, x: Tensor, H: int, W: int) -> Tensor:
        """(B, G, n, C) -> (B, H, W, C)"""
        dy, dx = self.shifts(H, W)
        if (dy or dx) and _gathers(x):
            return put_windows(x, self.size, (dy, dx), H, W)
        x = unfold_windows(x, self.size, -(-H // self.size))
        x = x.roll((dy, dx), (1, 2)) if dy or dx else x
        return x[:, :H, :W]


def _gathers(x: Tensor) -> bool:
    """Whether to move tokens by an index: eagerly, and where no gradient comes back. A compiler fuses the rolls."""
    return not torch.compiler.is_compiling() and not (x.requires_grad and torch.is_grad_enabled())


class Strided:
    """Groups of tokens that stand a stride apart, so that each reaches over the whole map; `merge` undoes `split`.

    With `stride`, a group is one token of every stride x stride patch, at the same place of each. With `size`, groups
    have size x size tokens, and the stride follows from the map. A map that the number does not divide is padded with
    zeros below and to the right.
    """

    def __init__(self, *, stride: int = 0, size: int = 0):
        if (stride > 0) == (size > 0):
            raise ValueError(f"stride={stride} and size={size}: groups have one of the two")
        self.stride, self.size = stride, size

    def split(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, G, n, C)"""
        return fold_strided(pad_to(x, self.stride or self.size), self.strides(*x.shape[1:3]))

    def merge(self, x: Tensor, H: int, W: int) -> Tensor:
        """(B, G, n, C) -> (B, H, W, C)"""
        return unfold_strided(x, self.strides(H, W), self.size or -(-H // self.stride))[:, :H, :W]

    def mask(self, H: int, W: int, like: Tensor) -> None:
        """None: nothing is shifted, so no group holds strangers."""

    def strides(self, H: int, W: int) -> tuple[int, int]:
        """How far apart the tokens of a group stand, down and across."""
        return (self.stride, self.stride) if self.stride else (-(-H // self.size), -(-W // self.size))


class Channels:
    """Marks a mixer whose attention is between channels: no token looks at another."""


class Within:
    """Marks a mixer whose attention stays inside a token's own parts (the pixels of a patch)."""


class Elsewhere:
    """Marks a mixer whose weights are not over one set of tokens for all: `over` says what a token looks at."""

    def __init__(self, over: str):
        self.over = over


@dataclass(frozen=True)
class TokenSets:
    """Names the tokens that a mixer's queries and keys are, in its attribute `token_sets`; without one, both are image.

    Sets of one name must be the same tokens throughout a network, so that explanations can follow them from layer to
    layer: `TokenSets("source", "source")` is self-attention of an encoder, `TokenSets("target", "source")` the
    cross-attention of a decoder.

    stepwise: each call of the mixer is the next one of the queries, as in a recurrent decoder.
    """

    queries: str = "image"
    keys: str = "image"
    stepwise: bool = False
