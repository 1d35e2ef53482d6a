"""The one function that fits a table of learned positions to another grid."""
import torch
import torch.nn.functional as F
from torch import Tensor


def resample_positions(table: Tensor, grid: tuple[int, int], *, old: tuple[int, int], prefix: int = 0) -> Tensor:
    """A table of positions (1, prefix + h·w, C) of the grid `old` for another `grid`; the prefix stays.

    Bicubic with anti-aliasing, to whole sizes and never by a factor, in float32: what timm does, and what
    keeps square, wide, tall and odd maps on one footing. Returns the table itself where nothing changes.
    """
    # a size that an exported program leaves open is not compared: the program would then hold for the other sizes only
    if all(isinstance(side, int) for side in grid) and grid == old:
        return table
    head, tail = table[:, :prefix], table[:, prefix:]
    image = tail.unflatten(1, old).permute(0, 3, 1, 2).float()                              # (1, C, h, w)
    image = F.interpolate(image, size=grid, mode="bicubic", antialias=True, align_corners=False)
    tail = image.permute(0, 2, 3, 1).flatten(1, 2).to(table.dtype)
    return torch.cat([head, tail], 1)
