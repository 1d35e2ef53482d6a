"""What a backbone returns."""
from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class Features:
    """Maps (B, H/s, W/s, C_s) from fine to coarse, and the tokens (B, P, C) that belong to no place."""

    maps: tuple[Tensor, ...]
    prefix: Tensor | None = None        # class, distillation, register tokens, in the paper's order


def from_tokens(x: Tensor, grid: tuple[int, int], prefix: int) -> Features:
    """A sequence (B, P + h·w, C) as one map (B, h, w, C) and its prefix (B, P, C)."""
    return Features(maps=(x[:, prefix:].unflatten(1, grid),), prefix=x[:, :prefix] if prefix else None)


def pyramid(x: Tensor, stages: Iterable[nn.Module]) -> tuple[Tensor, ...]:
    """The map after each stage, from fine to coarse; each stage reads the one before."""
    maps = []
    for stage in stages:
        x = stage(x)
        maps.append(x)
    return tuple(maps)
