"""Attention of every place to a smaller map: the queries are all places, the keys those of a map made of it."""
from collections.abc import Callable

import torch
from torch import Tensor, nn

from vitrail.nn.attention import Attend, Merge


class Reduced:
    """The partition of a mixer whose keys are cells of the map.

    pool: the mean that tells which places a cell stands for, (B, C, H, W) -> (B, C, h, w), such as
    `partial(F.avg_pool2d, kernel_size=8)`. The explanations share a cell out among its places by it.
    """

    def __init__(self, pool: Callable[[Tensor], Tensor]):
        self.pool = pool

    def spread(self, weights: Tensor, H: int, W: int) -> Tensor:
        """Weights over cells (B, N, h·w) as weights over places (B, N, H·W): each cell's in equal parts."""
        with torch.inference_mode(False), torch.enable_grad():
            places = torch.zeros(*weights.shape[:2], H, W, device=weights.device, requires_grad=True)
            cells = self.pool(places)
            found, = torch.autograd.grad(cells, places, weights.detach().clone().float().view_as(cells))
        return found.flatten(2)


class ReducedAttention(nn.Module):
    """Multi-head attention of all places of a map to the places of a smaller one (Wang et al., arXiv:2102.12122,
    equations 1 to 3): (B, H, W, C) -> same.

    reduce: (B, H, W, C) -> (B, h, w, C), what keys and values are made of. groups: which places its cells stand for;
    None where it reduces nothing.
    """

    def __init__(self, dim: int, heads: int, reduce: nn.Module, groups: Reduced | None, *, qkv_bias: bool = True):
        super().__init__()
        self.heads, self.groups, self.reduce = heads, groups, reduce
        self.q, self.kv = nn.Linear(dim, dim, bias=qkv_bias), nn.Linear(dim, 2 * dim, bias=qkv_bias)
        self.attend, self.out = Attend(), Merge(dim)

    def forward(self, x: Tensor) -> Tensor:                                             # (B, H, W, C)
        q = self.q(x).flatten(1, 2).unflatten(-1, (self.heads, -1)).transpose(1, 2)     # (B, h, N, D)
        kv = self.kv(self.reduce(x)).flatten(1, 2).unflatten(-1, (2, self.heads, -1))   # (B, M, 2, h, D)
        k, v = kv.permute(2, 0, 3, 1, 4).unbind(0)                                      # (B, h, M, D)
        return self.out(self.attend(q, k, v)).unflatten(1, x.shape[1:3])
