"""Fixed 2-D sines and cosines: a quarter of the channels each for sin y, cos y, sin x, cos x, in place of a table.

Chen et al., ICCV 2021, arXiv:2104.02057 (MoCo v3); He et al., arXiv:2111.06377 (MAE) take x first: their table is this
one with its halves swapped.
"""
import torch
from torch import Tensor, nn

from vitrail.core.card import Idea, Paper
from vitrail.core.errors import ModelError
from vitrail.core.mechanism import Position
from vitrail.ops.windows import by_size
from vitrail.positions.sinusoidal import TEMPERATURE, frequencies

PAPER = Paper(title="An Empirical Study of Training Self-Supervised Vision Transformers", arxiv="2104.02057",
              authors="Chen et al.", year=2021, venue="ICCV", code="facebookresearch/moco-v3", license="CC-BY-NC-4.0",
              builds_on=("positions.sinusoidal",),
              ideas=(Idea("positions.sinusoidal", "section 5", "sines and cosines, in one dimension"),
                     Idea("backbones.vit", "section 5", "the network whose positions it fixes")))


def sincos_table(grid: tuple[int, int], dim: int, *, temperature: float = TEMPERATURE) -> Tensor:
    """The code of each place of a grid, row by row: (h·w, dim) in float64. Raises ModelError: dim is no 4 · n."""
    if dim < 4 or dim % 4:
        raise ModelError(f"{dim} channels are no pairs of sines and cosines for two axes: give a multiple of 4")
    (h, w), pace = grid, frequencies(dim // 2, temperature=temperature)

    def along(n: int) -> Tensor:
        angle = torch.arange(n, dtype=torch.float64)[:, None] * pace
        return torch.cat([angle.sin(), angle.cos()], -1)
    return torch.cat([along(h)[:, None].expand(h, w, -1), along(w).expand(h, w, -1)], -1).flatten(0, 1)


class SinCos2d(nn.Module):
    """Stands where a PositionTable stands: (B, P + h·w, C) -> same, nothing added to P tokens that have no place."""

    def __init__(self, dim: int, *, prefix: int = 0, temperature: float = TEMPERATURE):
        super().__init__()
        self.dim, self.prefix, self.temperature = dim, prefix, temperature
        sincos_table((1, 1), dim)                                       # says now what is wrong with dim

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:      # (B, N, C)
        def make() -> Tensor:
            table = sincos_table(grid, self.dim, temperature=self.temperature)
            return torch.cat([table.new_zeros(self.prefix, self.dim), table]).to(x)
        return x + by_size(("sincos_2d", *grid, self.dim, self.prefix, self.temperature), x, make)


sincos_2d = Position(
    build=SinCos2d, enters="added to the tokens, once", learned=False,
    fits="any grid: the table is a formula of row and column")
