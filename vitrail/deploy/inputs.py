"""The inputs of a model for tracing and comparing, as its task makes them: which of their axes are batch and size."""
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from vitrail.core.config import ModelConfig
from vitrail.core.errors import ExportError
from vitrail.core.task import Task, task_of
from vitrail.deploy.structure import leaves_of, names_of, stack

Size = tuple[int, int] | int            # height and width of images in pixels; tokens of a text
SIDES = ("height", "width")


@dataclass(frozen=True)
class ModelInputs:
    """What a model of vitrail's takes."""

    config: ModelConfig

    @property
    def task(self) -> Task:
        return task_of(self.config)

    def example(self, batch: int, size: Size | None = None) -> list[Tensor]:
        """Made-up inputs of so many samples, tensor by tensor; at the model's own size unless given."""
        return leaves_of(self.task.example_inputs(self.config, batch, size))

    @property
    def names(self) -> list[str]:
        """Of the input tensors; of one alone the task's own."""
        return names_of(self.task.example_inputs(self.config, 1), self.task.input_name)

    @property
    def size(self) -> Size:
        """The model's own: the length that its spec names, or height and width, as its example inputs have them."""
        length = getattr(self.config.spec, "length", 0)
        if length:
            return int(length)
        for leaf in self.example(1):
            if leaf.ndim == 4:
                return leaf.shape[2], leaf.shape[3]
        return int(max(leaf.shape[1] for leaf in self.example(1) if leaf.ndim > 1))

    def axes(self, size: Size, *, batch: bool, open_size: bool) -> list[dict[int, str]]:
        """For each input tensor its open axes, by name: those that change with the batch, or with a side of the
        size."""
        named: list[dict[int, str]] = [{} for _ in self.names]
        if batch:
            self._note(named, self.example(2, size), self.example(3, size), "batch")
        if open_size and isinstance(size, int):
            self._note(named, self.example(2, size), self.example(2, size - 1), "length")
        elif open_size and not isinstance(size, int):
            for side, name in enumerate(SIDES):
                other = tuple(length + 1 if side == at else length for at, length in enumerate(size))
                self._note(named, self.example(2, size), self.example(2, (other[0], other[1])), name)
        return named

    @staticmethod
    def _note(named: list[dict[int, str]], one: Sequence[Tensor], other: Sequence[Tensor], name: str) -> None:
        for axes, first, second in zip(named, one, other, strict=True):
            axes |= {axis: name for axis in range(first.ndim) if first.shape[axis] != second.shape[axis]}

    def read(self, data: Any, *, size: Size | None = None, most: int = 32) -> list[Tensor]:
        """Real inputs as a batch, tensor by tensor. Raises what the task's reader raises, ExportError for a task that
        reads none."""
        if self.task.read_inputs is None:
            raise ExportError(f"models for {self.task.name} cannot be compared on real inputs: their task declares no "
                              "read_inputs")
        return stack(list(self.task.read_inputs(self.config, data, most=most, size=size)))
