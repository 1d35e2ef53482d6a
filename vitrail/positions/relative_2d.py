"""Relative places in two dimensions: a query meets a learned vector of the column offset and one of the row offset.

Bello et al., ICCV 2019, arXiv:1904.09925; so in the Bottleneck Transformer (arXiv:2101.11605).
"""
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.core.card import Idea, Paper
from vitrail.core.mechanism import Position
from vitrail.ops.positions import resample_positions
from vitrail.ops.windows import by_size

PAPER = Paper(title="Attention Augmented Convolutional Networks", arxiv="1904.09925", authors="Bello et al.",
              year=2019, venue="ICCV",
              ideas=(Idea("relative_positions", "section 3.1", "vectors of the offset, in one dimension"),
                     Idea("music_transformer", "section 3.1", "logits by place without gathering")))


def skew(logits: Tensor) -> Tensor:
    """Logits by offset (*, n, 2n - 1) as logits by place (*, n, n): entry (i, j) was that of the offset j - i.

    One row in 2n numbers, read in rows of 2n - 1, is each time one further to the left; nothing is gathered.
    """
    n = logits.shape[-2]
    line = F.pad(F.pad(logits, (0, 1)).flatten(-2), (0, n - 1))
    return line.unflatten(-1, (n + 1, 2 * n - 1))[..., :n, n - 1:]


def resampled(table: Tensor, n: int) -> Tensor:
    """A table of offsets (2m - 1, d) for a line of n places that spans what m did: (2n - 1, d), resampled."""
    return resample_positions(table[None], (1, 2 * n - 1), old=(1, len(table)))[0]


def sliced(table: Tensor, n: int) -> Tensor:
    """A table of offsets (2m - 1, d) for n places of the old size: (2n - 1, d); what is farther is as far as m - 1."""
    middle = len(table) // 2
    return F.embedding(torch.arange(1 - n, n, device=table.device).clamp(-middle, middle) + middle, table)


class RelativeLogits2d(nn.Module):
    """q_i · (r^W_{x_j - x_i} + r^H_{y_j - y_i}), two tables for all heads, of 2W - 1 and 2H - 1 vectors (section 3).

    Two forms with one result. Called, it gives the logits (*, N, N), to be added to q · k. `widen` gives q and k with
    H + W channels more, whose product holds the logits already: a fused kernel then needs no N x N tensor at all.
    q is scaled beforehand, as published, so that both terms are. Born from a normal of deviation d^-1/2; on another
    grid than its own the tables are `fit`.
    """

    def __init__(self, grid: tuple[int, int], dim: int, *, fit: Callable[[Tensor, int], Tensor] = resampled):
        super().__init__()
        self.grid, self.fit = grid, fit
        self.rows, self.columns = (nn.Parameter(torch.randn(2 * n - 1, dim) * dim ** -0.5) for n in grid)

    def forward(self, q: Tensor, grid: tuple[int, int]) -> Tensor:                      # (*B, N, D) -> (*B, N, N)
        rows, columns = self.along(q, grid)
        return (rows[..., :, None] + columns[..., None, :]).flatten(-2)

    def widen(self, q: Tensor, k: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """q and k (*B, N, D) -> (*B, N, D + H + W): each key points at its own row and column."""
        here = _rows_and_columns(grid, k).expand(*k.shape[:-1], -1)
        return torch.cat([q, *self.along(q, grid)], -1), torch.cat([k, here], -1)

    def along(self, q: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """The logits of every query for each row (*B, N, H) and for each column (*B, N, W)."""
        q = q.unflatten(-2, grid)
        rows, columns = (t if len(t) == 2 * n - 1 else self.fit(t, n)
                         for t, n in zip((self.rows, self.columns), grid, strict=True))
        down, across = skew(q.transpose(-2, -3) @ rows.mT).transpose(-2, -3), skew(q @ columns.mT)
        return down.flatten(-3, -2), across.flatten(-3, -2)


def _rows_and_columns(grid: tuple[int, int], like: Tensor) -> Tensor:
    """(N, H + W): a one for each place's row, and one for its column."""
    def make() -> Tensor:
        rows, columns = (torch.eye(n, dtype=like.dtype, device=like.device) for n in grid)
        return torch.cat([rows.repeat_interleave(grid[1], 0), columns.repeat(grid[0], 1)], 1)
    return by_size(("rows_and_columns", *grid), like, make)


relative_2d = Position(
    build=RelativeLogits2d, enters="added to the scores, as a product with the query, in every layer", learned=True,
    fits="any grid: the two tables are resampled, or (`fit=sliced`) keep their offsets in places")
