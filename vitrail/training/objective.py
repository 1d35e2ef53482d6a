"""What the loop needs to know of a learning problem, and nothing more."""
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

import torch
from torch import Tensor, nn

from vitrail.core.errors import TrainingError


class Batch(Protocol):
    """A dataclass of samples. Its tensors, lists and tuples that are as long as the batch hold one entry a sample;
    a micro-batch is cut from them, and everything else is handed on as it is."""

    def __len__(self) -> int: ...

    def to(self, device: torch.device) -> Self: ...


class Batches(Protocol):
    """The training batches of one process: its equal share of each whole batch, in an order that follows from
    the seed and the epoch alone. Whole batches only: what is left at the end of an epoch is left out."""

    def __len__(self) -> int:
        """Steps in an epoch, the same on every process."""

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Any]:
        """The batches of an epoch from step `start` of it on, without reading those before."""


class Task(Protocol):
    """A learning problem: its network, data, loss and score. Each method but `names` runs on every process."""

    headline: str               # the score that chooses the best checkpoint
    larger_is_better: bool

    def model(self) -> nn.Module:
        """The network, built once, after the seed is set: the same weights on every process."""

    def batches(self, rank: int, of: int) -> Batches: ...

    def loss(self, model: nn.Module, batch: Any, step: int) -> dict[str, Tensor]:
        """{"loss": the mean over the batch, ...: other parts to log}, the same names at every step.

        Random numbers may be drawn: the generator is seeded for the step, equally on all processes.
        """

    def evaluate(self, model: nn.Module, device: torch.device, rank: int, of: int) -> dict[str, float]:
        """Scores over the samples of all processes, the headline among them, equal on all processes."""

    def describe(self) -> dict[str, Any]:
        """What run.json says of the data, as JSON. "fingerprint" must change when the data does."""

    def names(self, batch: Any) -> list[str]:
        """The samples of a batch, as the user knows them: for error messages."""

    def save(self, model: nn.Module, folder: Path) -> None:
        """Writes the finished network into an empty folder."""


class Step(nn.Module):
    """A network and its loss as one module, so that what wraps it for speed or scale wraps all of a step."""

    def __init__(self, model: nn.Module, task: Task):
        super().__init__()
        self.model = model
        self.task = task

    def forward(self, batch: Any, step: int) -> dict[str, Tensor]:
        return self.task.loss(self.model, batch, step)

    def evaluate(self, device: torch.device, rank: int, of: int) -> dict[str, float]:
        return self.task.evaluate(self.model, device, rank, of)


B = TypeVar("B")


def part(batch: B, at: int, of: int) -> B:
    """The contiguous part `at` of `of` equal parts of a batch. Raises TrainingError where it cannot be cut so."""
    if of == 1:
        return batch
    whole = len(batch)                                                              # type: ignore[arg-type]
    if whole % of or not dataclasses.is_dataclass(batch) or isinstance(batch, type):
        raise TrainingError(f"cannot cut a {type(batch).__name__} of {whole} samples into {of} equal micro-batches: "
                            "give an `accumulate` that divides the samples of one process")
    size = whole // of
    here = slice(at * size, at * size + size)

    def cut(value: Any) -> Any:
        long = (isinstance(value, Tensor) and value.ndim > 0) or isinstance(value, (list, tuple))
        return value[here] if long and len(value) == whole else value
    given = [f.name for f in dataclasses.fields(batch) if f.init]
    return dataclasses.replace(batch, **{name: cut(getattr(batch, name)) for name in given})
