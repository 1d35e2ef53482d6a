"""Local relation: a place weighs its neighbours by how well the two compose and by where they lie.

Hu et al., ICCV 2019, arXiv:1904.11491.
"""
from collections.abc import Callable

import torch
from torch import Tensor, nn

from vitrail.core.card import Idea, Paper
from vitrail.core.mechanism import LINEAR, Mechanism, Takes
from vitrail.nn import Elsewhere, Shown
from vitrail.ops.neighbours import by_offset, by_place, gather, masked_edges, mix, pad_zero, reach
from vitrail.ops.windows import by_size

PAPER = Paper(title="Local Relation Networks for Image Recognition", arxiv="1904.11491", authors="Hu et al.",
              year=2019, venue="ICCV", code="microsoft/Swin-Transformer", license="MIT",
              ideas=(Idea("relation_networks", "related work", "weights by appearance and by geometry"),
                     Idea("attention.non_local", "related work", "weights of pairs of places")))


def squared_difference(q: Tensor, k: Tensor) -> Tensor:
    """-(q - k)²."""
    return -(q - k).square()


def absolute_difference(q: Tensor, k: Tensor) -> Tensor:
    """-|q - k|."""
    return -(q - k).abs()


def product(q: Tensor, k: Tensor) -> Tensor:
    """q k."""
    return q * k


class GeometricPrior(nn.Module):
    """A score for each offset from two linear layers on the offset itself: (k², G).

    Offsets run from -1 to 1; the paper gives neither their unit nor the width between the layers.
    """

    def __init__(self, window: int, heads: int, *, hidden: int = 16):
        super().__init__()
        self.window, self.fc1, self.fc2 = window, nn.Linear(2, hidden), nn.Linear(hidden, heads)

    def forward(self) -> Tensor:
        return self.fc2(self.fc1(_offsets(self.window, self.fc1.weight)).relu())        # (K, G)


class TablePrior(nn.Module):
    """A learned score for each offset, as the released kernel takes it: (k², G)."""

    def __init__(self, window: int, heads: int):
        super().__init__()
        self.table = nn.Parameter(torch.zeros(window * window, heads))

    def forward(self) -> Tensor:
        return self.table


def _offsets(window: int, like: Tensor) -> Tensor:
    """(k², 2): the offsets (y, x) of a window, row by row, in units of its reach."""
    def make() -> Tensor:
        by = reach(window)
        at = torch.arange(-by, by + 1, dtype=like.dtype, device=like.device) / max(by, 1)
        return torch.cartesian_prod(at, at)
    return by_size(("local_offsets", window), like, make)


class LocalRelation(nn.Module):
    """Σ_j softmax_j(Φ(q_i, k_j) + g(j - i)) x_j over the window x window places around i.

    Query and key are one number each for every group of channels (the paper's groups have 8), Φ is `relate`, g is
    `prior`. `heads` counts the groups; group g holds the g-th run of dim / heads channels. Places beyond the edge are
    masked: the kernel scores them -100, which float32 cannot tell from it. A linear layer follows.
    (B, h, w, C) -> (B, h, w, C). Raises ValueError for an even window, or where the heads do not divide dim.
    """

    def __init__(self, dim: int, heads: int, *, window: int = 7,
                 relate: Callable[[Tensor, Tensor], Tensor] = squared_difference,
                 prior: Callable[[int, int], nn.Module] = GeometricPrior):
        super().__init__()
        if heads < 1 or dim % heads:
            raise ValueError(f"{heads} groups do not divide a width of {dim}")
        self.reach, self.window, self.heads, self.relate = reach(window), window, heads, relate
        self.groups = Elsewhere(f"the {window} x {window} places around it")
        self.qk, self.prior, self.out = nn.Linear(dim, 2 * heads), prior(window, heads), nn.Linear(dim, dim)
        self.shown = Shown()

    def forward(self, x: Tensor) -> Tensor:                                             # (B, h, w, C)
        h, w = x.shape[1:3]
        q, k = self.qk(x).movedim(-1, 1).chunk(2, 1)                                    # (B, G, h, w)
        alike = self.relate(q, gather(pad_zero(k, self.reach), self.window))            # (K, B, G, h, w)
        scores = masked_edges(alike + self.prior()[:, None, :, None, None], self.window)        # (K, B, G, h, w)
        weights = self.shown(by_place(scores.softmax(0)))                               # (B, G, N, K)
        v = x.movedim(-1, 1).unflatten(1, (self.heads, -1))                             # (B, G, D, h, w)
        y = mix(by_offset(weights, h, w), pad_zero(v, self.reach), self.window)         # (B, G, D, h, w)
        return self.out(y.flatten(1, 2).movedim(1, -1))                                 # (B, h, w, C)


local_relation = Mechanism(
    build=LocalRelation, mixer=lambda dim, heads, grid: LocalRelation(dim, heads), takes=Takes.MAP, time=LINEAR,
    memory=LINEAR, where="the local relation layer: the cost of a place is that of its window",
    shows="the weights of each place's window, row by row, (B, groups, N, window²)")
