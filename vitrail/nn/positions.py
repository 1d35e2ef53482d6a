"""Learned positions: a table over places, and a table over offsets."""
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.core.errors import CheckpointError
from vitrail.ops.positions import resample_positions
from vitrail.ops.windows import by_size, window_offsets


class PositionTable(nn.Module):
    """One learned vector a place, added: (B, P + h·w, C), for P tokens that have no place and a grid of others.

    On another grid than its own the table is resampled (`ops.positions`).
    """

    def __init__(self, grid: tuple[int, int], dim: int, *, prefix: int = 0):
        super().__init__()
        self.grid, self.prefix = grid, prefix
        self.table = nn.Parameter(torch.zeros(1, prefix + grid[0] * grid[1], dim))

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        return x + resample_positions(self.table, grid, old=self.grid, prefix=self.prefix)

    def fit(self, table: Tensor) -> Tensor:
        """A table of another (square) grid, resampled for this one. Raises CheckpointError where it is none."""
        return fit_table(table, self.grid, self.table.shape[2], prefix=self.prefix)


def fit_table(table: Tensor, grid: tuple[int, int], dim: int, *, prefix: int) -> Tensor:
    """A table (1, prefix + s·s, dim) of another, square grid, resampled for `grid`. Raises CheckpointError."""
    side = math.isqrt(max(table.shape[1] - prefix, 0)) if table.ndim == 3 else 0
    if not side or side * side != table.shape[1] - prefix or table.shape[2] != dim:
        raise CheckpointError(f"a table of positions of shape {tuple(table.shape)} does not fit a model with "
                              f"{prefix} + {grid[0]} x {grid[1]} places of width {dim}")
    return resample_positions(table, grid, old=(side, side), prefix=prefix)


class RelativeBias(nn.Module):
    """One learned bias a head for each offset within an s x s window: (H, n, n) (Swin, equation 4)."""

    index: Tensor

    def __init__(self, size: int, heads: int):
        super().__init__()
        self.table = nn.Parameter(torch.zeros((2 * size - 1) ** 2, heads))
        self.register_buffer("index", window_offsets(size), persistent=False)

    def forward(self) -> Tensor:
        # an embedding, not table[index]: the gradient of the latter is not repeatable on two threads
        return F.embedding(self.index, self.table).permute(2, 0, 1).contiguous()

    def fit(self, table: Tensor) -> Tensor:
        """A table of another window, resampled for this one. Raises CheckpointError where it is none."""
        side, new = math.isqrt(table.shape[0]), math.isqrt(self.table.shape[0])
        if table.ndim != 2 or side * side != table.shape[0] or table.shape[1] != self.table.shape[1]:
            raise CheckpointError(f"a table of relative biases of shape {tuple(table.shape)} does not fit "
                                  f"{tuple(self.table.shape)}")
        return resample_positions(table[None], (new, new), old=(side, side))[0]


class OffsetBias(nn.Module):
    """One learned bias a head for each offset between two places of a whole map (CoAtNet, Dai et al.,
    arXiv:2106.04803, appendix A.1): (heads, n, n), n = h·w.

    On another map than the one it was made for, the table of (2h - 1) x (2w - 1) offsets is stretched bilinearly, as
    the paper does for larger images; for smaller ones with anti-aliasing.
    """

    def __init__(self, grid: tuple[int, int], heads: int):
        super().__init__()
        self.grid = grid
        self.table = nn.Parameter(torch.zeros((2 * grid[0] - 1) * (2 * grid[1] - 1), heads))

    def forward(self, h: int, w: int) -> Tensor:
        index = by_size(("grid_offsets", h, w), self.table, lambda: _offsets(h, w, self.table.device))     # (n, n)
        return F.embedding(index, _stretched(self.table, self.grid, (h, w))).permute(2, 0, 1)

    def fit(self, table: Tensor) -> Tensor:
        """A table of another (square) map, stretched for this one. Raises CheckpointError where it is none."""
        side = math.isqrt(table.shape[0])
        if table.ndim != 2 or side * side != table.shape[0] or not side % 2 or table.shape[1] != self.table.shape[1]:
            raise CheckpointError(f"a table of offsets of shape {tuple(table.shape)} does not fit one of "
                                  f"{tuple(self.table.shape)} for maps of {self.grid[0]} x {self.grid[1]}")
        return _stretched(table, (side // 2 + 1, side // 2 + 1), self.grid)


def _stretched(table: Tensor, old: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """A table of the offsets within maps of `old` for maps of `grid`; the table itself where they are the same."""
    # a size that an exported program leaves open is not compared: the program would then hold for the other sizes only
    if all(isinstance(side, int) for side in grid) and tuple(grid) == tuple(old):
        return table
    plane = table.T.unflatten(1, (2 * old[0] - 1, 2 * old[1] - 1))[None].float()            # (1, heads, a, b)
    plane = F.interpolate(plane, size=(2 * grid[0] - 1, 2 * grid[1] - 1), mode="bilinear", antialias=True)
    return plane[0].flatten(1).T.to(table.dtype)


def _offsets(h: int, w: int, device: torch.device) -> Tensor:
    """(n, n): which entry of the table tells query from key, row offset first."""
    def of(n: int) -> Tensor:
        at = torch.arange(n, device=device)
        return at[:, None] - at + n - 1
    return (of(h)[:, None, :, None] * (2 * w - 1) + of(w)[None, :, None, :]).reshape(h * w, h * w)


def grid_of(image: int | tuple[int, int], patch: int) -> tuple[int, int]:
    """How many patches, down and across, cover an image; the last ones may reach over its edge."""
    h, w = (image, image) if isinstance(image, int) else image
    return -(-h // patch), -(-w // patch)
