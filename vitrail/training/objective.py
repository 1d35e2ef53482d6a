"""What the loop needs to know of a learning problem, and nothing more."""
import dataclasses
import fnmatch
from collections.abc import Callable, Iterable, Iterator
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


class Objective(Protocol):
    """A learning problem: its network, data, loss and score. Each method but `names` runs on every process.

    Optional methods: `phases(model)` -> Phases, where parts of a step learn in turns, in place of one loss;
    `after_step(model, step)`, called without gradients once an optimizer step, `step` counted from 1: for momentum
    encoders, queues and teachers, whose buffers are part of the network's state; `learning_rates(model)` -> factors on
    the learning rate by patterns of names.
    """

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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Phase:
    """One of several parts of a step that learn in turns, such as the discriminator of a GAN and then its generator.

    name: what its losses are logged under. parameters: patterns (fnmatch) of the names of those that learn in it; the
    others get no gradient. loss: (model, batch, step) -> losses, as `Objective.loss`.
    """

    name: str
    parameters: tuple[str, ...]
    loss: Callable[[nn.Module, Any, int], dict[str, Tensor]]


def phases_of(objective: Any, model: nn.Module) -> tuple[Phase, ...]:
    """The phases of a step: those that the optional method `phases(model)` of the objective names, or all parameters
    and its one loss. Raises TrainingError for one in which nothing learns, and for two of one name."""
    declared = getattr(objective, "phases", None)
    if declared is None:
        return (Phase(name="", parameters=("*",), loss=objective.loss),)
    phases = tuple(declared(model))
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    for phase in phases:
        if not matching(names, phase.parameters):
            raise TrainingError(f"in the phase {phase.name!r} nothing learns: {', '.join(phase.parameters)} names no "
                                "parameter that has a gradient")
    if len({phase.name for phase in phases}) != len(phases) or not phases:
        given = ", ".join(phase.name for phase in phases) or "none"
        raise TrainingError(f"phases have names of their own, and these are {given}")
    return phases


def matching(names: Iterable[str], patterns: Iterable[str]) -> list[str]:
    """Those of the names that fit one of the patterns (fnmatch)."""
    return [name for name in names if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)]


class Step(nn.Module):
    """A network and its losses as one module, so that what wraps it for speed or scale wraps all of a step."""

    def __init__(self, model: nn.Module, objective: Objective):
        super().__init__()
        self.model = model
        self.objective = objective
        self.phases = phases_of(objective, model)

    def forward(self, batch: Any, step: int, phase: int = 0) -> dict[str, Tensor]:
        return self.phases[phase].loss(self.model, batch, step)

    def evaluate(self, device: torch.device, rank: int, of: int) -> dict[str, float]:
        return self.objective.evaluate(self.model, device, rank, of)


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
