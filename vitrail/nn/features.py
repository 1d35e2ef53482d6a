"""What a backbone returns."""
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from vitrail.core.errors import ModelError


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


def each_stage(**settings: Sequence[object]) -> None:
    """Raises ModelError unless every setting has one value for each stage, and there is a stage."""
    counts = {name: len(values) for name, values in settings.items()}
    if len(set(counts.values())) != 1 or not min(counts.values()):
        raise ModelError("each stage needs one value of every setting, and here are "
                         + ", ".join(f"{n} {name}" for name, n in counts.items()))
