"""2-D rotary positions: queries and keys turn by their place, so that their product feels only how far apart they are.

Heo et al., ECCV 2024, arXiv:2403.13298, after RoPE (Su et al., arXiv:2104.09864).
"""
import math

import torch
from torch import Tensor, nn

from vitrail.core.card import Idea, Paper
from vitrail.core.errors import ModelError
from vitrail.core.mechanism import Position
from vitrail.ops.windows import by_size
from vitrail.positions.sinusoidal import frequencies

PAPER = Paper(title="Rotary Position Embedding for Vision Transformer", arxiv="2403.13298", authors="Heo et al.",
              year=2024, venue="ECCV", code="naver-ai/rope-vit", license="Apache-2.0",
              builds_on=("positions.sinusoidal",),
              ideas=(Idea("rope", "abstract", "rotations of queries and keys, in one dimension"),
                     Idea("backbones.vit", "abstract", "the network whose positions it replaces")))


class Rotary2d(nn.Module):
    """Axial: the first half of a head's pairs of channels turns by x, the second by y, each pair at its own pace.

    q or k (B, H, P + h·w, D) -> same; P tokens that have no place do not turn. Pairs are neighbours (2t, 2t + 1).
    Values are left alone. Raises ModelError where 4 does not divide D = dim / heads.
    """

    def __init__(self, dim: int, heads: int, *, prefix: int = 0, temperature: float = 100.0):
        super().__init__()
        self.size, self.prefix, self.temperature = _head(dim, heads), prefix, temperature

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:              # (B, H, N, D)
        wide = _wide(x)                                                         # (B, H, N, D)

        def make() -> Tensor:
            pace = frequencies(self.size // 2, temperature=self.temperature)
            angle = places(grid, self.prefix)[..., None] * pace                 # (2, N, F)
            return _hands(torch.cat([*angle], -1)).to(wide)
        return turn(wide, by_size(("rotary_2d", *grid, self.size, self.prefix, self.temperature), wide, make)).to(x)


class MixedRotary2d(nn.Module):
    """Mixed: every pair of channels turns by f · (x, y), with a frequency f in the plane that its head learns.

    Called as Rotary2d. Born as the axial form with each head's pair of axes turned at random.
    """

    def __init__(self, dim: int, heads: int, *, prefix: int = 0, temperature: float = 10.0):
        super().__init__()
        self.prefix = prefix
        pace = frequencies(_head(dim, heads) // 2, temperature=temperature).float()
        axis = torch.rand(heads, 1) * 2 * math.pi
        axis = torch.cat([axis.expand(-1, len(pace)), axis.expand(-1, len(pace)) + math.pi / 2], -1)
        self.frequency = nn.Parameter(torch.stack([axis.cos(), axis.sin()]) * pace.repeat(2))   # (2, H, D / 2)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:              # (B, H, N, D)
        wide = _wide(x)                                                         # (B, H, N, D)
        at = by_size(("places", *grid, self.prefix), wide, lambda: places(grid, self.prefix).to(wide))
        fx, fy = self.frequency.to(wide.dtype)[:, :, None]
        return turn(wide, _hands(at[0, :, None] * fx + at[1, :, None] * fy)).to(x)


def turn(x: Tensor, hands: Tensor) -> Tensor:
    """Each pair of channels of x (*B, N, D) turned by its angle; hands (2, *, N, D / 2): its cosine, its sine."""
    pairs = x.unflatten(-1, (-1, 2))
    if torch.compiler.is_compiling():           # which fuses these lines, and has no kernels for complex numbers
        (cos, sin), (a, b) = hands, pairs.unbind(-1)
        return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2)
    *steps, last = x.stride()
    if last != 1 or any(n % 2 for n in (*steps, x.storage_offset())):
        pairs = pairs.clone(memory_format=torch.contiguous_format)      # a complex number lies at even addresses
    return torch.view_as_real(torch.view_as_complex(pairs) * torch.complex(*hands)).flatten(-2)


def places(grid: tuple[int, int], prefix: int) -> Tensor:
    """(2, P + h·w): x and y of every token, in float64. The P before them stand at the origin, where nothing turns."""
    h, w = (torch.arange(n, dtype=torch.float64) for n in grid)
    at = torch.stack([w.repeat(len(h)), h.repeat_interleave(len(w))])
    return torch.cat([at.new_zeros(2, prefix), at], -1)


def _hands(angle: Tensor) -> Tensor:
    return torch.stack([angle.cos(), angle.sin()])


def _wide(x: Tensor) -> Tensor:
    """In float32 at least: the angles of far places do not survive half precision."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _head(dim: int, heads: int) -> int:
    if heads < 1 or dim % (4 * heads):
        raise ModelError(f"dim={dim} in {heads} heads leaves no pairs of channels for two axes: "
                         f"give a multiple of 4 channels a head")
    return dim // heads


rotary_2d = Position(
    build=Rotary2d, enters="turns queries and keys, in every layer", learned=False,
    fits="any grid: angles are counted in patches")
rotary_2d_mixed = Position(
    build=MixedRotary2d, enters="turns queries and keys, in every layer", learned=True,
    fits="any grid: angles are counted in patches, at learned paces")
