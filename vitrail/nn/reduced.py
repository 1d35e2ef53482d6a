"""Attention of every place to a smaller map: the queries are all places, the keys those of a map made of it."""
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.core.errors import ModelError
from vitrail.nn.attention import Attend, Merge
from vitrail.nn.maps import Conv


class Reduced:
    """The partition of a mixer whose keys are cells of the map.

    pool: the mean that tells which places a cell stands for, (B, C, H, W) -> (B, C, h, w), such as
    `partial(F.avg_pool2d, kernel_size=8)`. The explanations share a cell out among its places by it.
    """

    def __init__(self, pool: Callable[[Tensor], Tensor]):
        self.pool = pool

    def spread(self, weights: Tensor, H: int, W: int) -> Tensor:
        """Weights over cells (B, N, h·w) as weights over places (B, N, H·W): each cell's in equal parts.

        Every row keeps its sum, also where a cell reaches over the edge of the map or shares places with another.
        """
        with torch.inference_mode(False), torch.enable_grad():
            places = torch.ones(*weights.shape[:2], H, W, device=weights.device, requires_grad=True)
            cells = self.pool(places)                       # of ones: how much of a cell lies inside the map
            given = weights.detach().clone().float().view_as(cells)
            found, = torch.autograd.grad(cells, places, given / cells.detach())
        return found.flatten(2)


def squares(size: int) -> Reduced:
    """Cells of size x size places, as `Shrink` makes them."""
    return Reduced(partial(_square_means, size=size))


def _square_means(x: Tensor, size: int) -> Tensor:
    return F.avg_pool2d(x, (min(size, x.shape[2]), min(size, x.shape[3])))


class Shrink(nn.Module):
    """A convolution makes one cell of each square of size x size places: (B, H, W, C) -> (B, ⌊H/s⌋, ⌊W/s⌋, C).

    What is left at the edges is not seen, as in all published code. A side shorter than one square is filled up with
    zeros. norm: comes after the convolution. groups: the convolution's. Raises ModelError for a size below 1.
    """

    def __init__(self, dim: int, size: int, norm: nn.Module, *, groups: int = 1):
        super().__init__()
        if size < 1:
            raise ModelError(f"squares of {size} x {size} places hold nothing: a map is reduced by 1, 2, 3, ...")
        self.size, self.norm = size, norm
        self.conv = Conv(dim, dim, size, size, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        H, W = x.shape[1:3]
        # a size that an exported program leaves open is not compared: the program would then hold for short sides only
        if isinstance(H, int) and isinstance(W, int) and min(H, W) < self.size:
            x = F.pad(x, (0, 0, 0, max(self.size - W, 0), 0, max(self.size - H, 0)))
        return self.norm(self.conv(x))


class ReducedAttention(nn.Module):
    """Multi-head attention of all places of a map to the places of a smaller one (Wang et al., arXiv:2102.12122,
    equations 1 to 3): (B, H, W, C) -> same.

    reduce: (B, H, W, C) -> (B, h, w, C), what keys and values are made of. groups: which places its cells stand for;
    None where it reduces nothing. bias: added to the scores, broadcast to (B, heads, H·W, h·w). Raises ModelError where
    the heads do not divide dim.
    """

    def __init__(self, dim: int, heads: int, reduce: nn.Module, groups: Reduced | None):
        super().__init__()
        if heads < 1 or dim % heads:
            raise ModelError(f"{heads} heads do not divide a width of {dim}")
        self.heads, self.groups, self.reduce = heads, groups, reduce
        self.q, self.kv = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim)
        self.attend, self.out = Attend(), Merge(dim)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:                 # (B, H, W, C)
        q = self.q(x).flatten(1, 2).unflatten(-1, (self.heads, -1)).transpose(1, 2)     # (B, h, N, D)
        kv = self.kv(self.reduce(x)).flatten(1, 2).unflatten(-1, (2, self.heads, -1))   # (B, M, 2, h, D)
        k, v = kv.permute(2, 0, 3, 1, 4).unbind(0)                                      # (B, h, M, D)
        return self.out(self.attend(q, k, v, bias)).unflatten(1, x.shape[1:3])
