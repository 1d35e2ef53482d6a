"""One line of proof: a mechanism, what it is compared with, and how far apart the two are."""
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

GOLDEN = Path(__file__).parents[1] / "golden"
TOLERANCE = 1e-5


@dataclass(frozen=True, kw_only=True)
class Proof:
    """`name`: the catalogue's. `how`: a package that is installed with the tests, a golden file recorded from the
    official code, or an exact property. `difference` computes the largest difference of any output over the
    deviation of the reference's outputs (`apart`)."""

    name: str
    how: Literal["package", "golden", "property"]
    reference: str                      # a few words: "transformers BigBirdBlockSparseAttention, 2 sizes"
    difference: Callable[[], float]
    tolerance: float = TOLERANCE

    def __str__(self) -> str:
        return f"{self.name}: {self.reference}"


def apart(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference over the deviation of `theirs`."""
    assert ours.shape == theirs.shape, f"{tuple(ours.shape)} is not {tuple(theirs.shape)}"
    ours, theirs = ours.detach(), theirs.detach()
    assert ours.isfinite().all() and theirs.isfinite().all(), "max() of a list would drop what is not a number"
    return float((ours - theirs).abs().max() / theirs.std())


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Normal numbers from a seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)
