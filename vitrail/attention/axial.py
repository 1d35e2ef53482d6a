"""Position-sensitive axial attention: first along every column, then along every row, with learned vectors of the
offset that meet queries, keys and values.

Wang et al., ECCV 2020, arXiv:2003.07853.
"""
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.core.card import Idea, Paper
from vitrail.core.mechanism import THREE_HALVES, Mechanism, Takes
from vitrail.nn import BatchNorm, Elsewhere, Softmax
from vitrail.ops.windows import by_size
from vitrail.positions.relative_2d import resampled

PAPER = Paper(title="Axial-DeepLab: Stand-Alone Axial-Attention for Panoptic Segmentation", arxiv="2003.07853",
              authors="Wang et al.", year=2020, venue="ECCV", code="csrhddlam/axial-deeplab", license="Apache-2.0",
              builds_on=("positions.relative_2d",),
              ideas=(Idea("attention.stand_alone", "section 3.1", "attention in place of convolutions, with offsets"),
                     Idea("attention.axial_plain", "section 3.2", "columns, then rows")))


class Scores(nn.Module):
    """The sum of three kinds of scores, 3 x (B, h, H, n, n), each batch-normalised for itself and each head.

    The norms have gains and no shifts: a number that all keys of a query share leaves the softmax as it is. So does
    the mean, which is why evaluation does not subtract it.
    """

    def __init__(self, heads: int):
        super().__init__()
        self.norm = nn.BatchNorm2d(3 * heads, affine=False)
        self.gain = nn.Parameter(torch.ones(3, heads, 1, 1))

    def forward(self, *scores: Tensor) -> Tensor:
        if self.training:
            stacked = self.norm(torch.cat(scores, 2).flatten(0, 1)).unflatten(1, self.gain.shape[:2])
            return (stacked * self.gain).sum(1).view_as(scores[0])
        assert self.norm.running_var is not None
        deviation = (self.norm.running_var + self.norm.eps).sqrt()
        gains = self.gain / deviation.view_as(self.gain)                            # (3, H, 1, 1)
        total = scores[0] * gains[0]
        for score, gain in zip(scores[1:], gains[1:], strict=True):
            total = torch.addcmul(total, score, gain)
        return total


class Sum(nn.Module):
    """The sum of what the places say and what their offsets say, 2 x (B, h, w, C), each batch-normalised for itself."""

    def __init__(self, dim: int):
        super().__init__()
        self.values, self.places = BatchNorm(dim), BatchNorm(dim)

    def forward(self, values: Tensor, places: Tensor) -> Tensor:
        return self.values(values) + self.places(places)


class Line(nn.Module):
    """Every place attends to its row (equation 4): y_i = Σ_j softmax_j(q_i·k_j + q_i·r^q + k_j·r^k) (v_j + r^v).

    r are learned vectors of the offset j - i, for rows of `length` places, which all heads share; on other rows they
    are `fit`: resampled, or `sliced` (positions.relative_2d). As in the official code, q, k and v are batch-normalised,
    so are the kinds of scores (`scores`) and of answers (`total`) before they are added, and nothing is scaled.
    Queries and keys have half as many channels as values. (B, h, w, C) -> (B, h, w, C).
    Raises ValueError where twice the heads do not divide dim.
    """

    def __init__(self, dim: int, heads: int, *, length: int, scores: nn.Module, total: nn.Module,
                 fit: Callable[[Tensor, int], Tensor] = resampled):
        super().__init__()
        if heads < 1 or dim % (2 * heads):
            raise ValueError(f"{heads} heads do not divide a width of {dim} into even parts")
        self.heads, self.fit = heads, fit
        size = dim // heads
        self.widths = [size // 2, size // 2, size]
        self.groups = Elsewhere("its own row or column")
        self.qkv, self.norm = nn.Linear(dim, 2 * dim, bias=False), BatchNorm(2 * dim)
        self.offsets = nn.Parameter(torch.randn(2 * length - 1, 2 * size) * size ** -0.5)
        self.scores, self.softmax, self.total = scores, Softmax(), total
        nn.init.normal_(self.qkv.weight, std=dim ** -0.5)

    def forward(self, x: Tensor) -> Tensor:                                         # (B, h, w, C)
        q, k, v = (self.norm(self.qkv(x)).unflatten(-1, (self.heads, -1)).transpose(2, 3)
                   .split(self.widths, -1))                                         # q, k (B, h, H, w, D)
        of_q, of_k, of_v = self.vectors(x.shape[2]).split(self.widths, -1)          # of_q, of_k (w, w, D)
        weights = self.softmax(self.scores(q @ k.mT, torch.einsum("bhgid,ijd->bhgij", q, of_q),
                                           torch.einsum("bhgjd,ijd->bhgij", k, of_k)))      # (B, h, H, w, w)
        answers = weights @ v, torch.einsum("bhgij,ijd->bhgid", weights, of_v)
        return self.total(*(t.transpose(2, 3).flatten(3) for t in answers))         # (B, h, w, C)

    def vectors(self, n: int) -> Tensor:
        """The vectors of a line's pairs of places (n, n, ·): those of the offset j - i at (i, j)."""
        table = self.offsets if len(self.offsets) == 2 * n - 1 else self.fit(self.offsets, n)

        def make() -> Tensor:
            at = torch.arange(n, device=table.device)
            return at - at[:, None] + n - 1
        return F.embedding(by_size(("offsets", n), table, make), table)


class Axial(nn.Module):
    """Attention along the columns, and then along the rows of what that gave (section 3.2): all places reach all.

    (B, h, w, C) -> (B, h, w, C), born for maps of `grid`. Raises ValueError as `Line`.
    """

    def __init__(self, dim: int, heads: int, *, grid: tuple[int, int],
                 fit: Callable[[Tensor, int], Tensor] = resampled):
        super().__init__()
        self.height, self.width = (Line(dim, heads, length=n, scores=Scores(heads), total=Sum(dim), fit=fit)
                                   for n in grid)

    def forward(self, x: Tensor) -> Tensor:                                         # (B, h, w, C)
        return self.width(self.height(x.transpose(1, 2)).transpose(1, 2))           # (B, h, w, C)


axial = Mechanism(
    build=Axial, mixer=lambda dim, heads, grid: Axial(dim, heads, grid=grid), takes=Takes.MAP,
    time=THREE_HALVES, memory=THREE_HALVES, where="section 3.2: O(hwm), a span m of a whole row or column",
    shows="the weights of columns (B, w, heads, h, h) and of rows (B, h, heads, w, w)")
