"""What a plan does: its calls of native kernels, those of torch between them, and whose memory each reads."""
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from vitrail.core.errors import ExportError
from vitrail.deploy.cpu.native import build

aten = torch.ops.aten
EMPTY = {aten.empty.memory_format, aten.empty_strided.default, aten.empty_like.default, aten.new_empty.default,
         aten.new_empty_strided.default}
WORD = 8                # bytes of each field of a job


@dataclass
class Base:
    """Memory that tensors share: an input's, that of an answer of torch's, or a place `inside` the block, `at` bytes
    from its start. It is needed from the call `first` to the call `last`."""

    start: int
    bytes: int
    first: int
    last: int
    inside: bool
    at: int = 0


@dataclass(frozen=True)
class Part:
    """A tensor in a base's memory, `offset` numbers from its start."""

    base: int
    size: torch.Size
    stride: tuple[int, ...]
    offset: int
    dtype: torch.dtype

    def of(self, whole: Tensor) -> Tensor:
        """The tensor, of an answer that the base is."""
        if whole.shape == self.size and whole.stride() == self.stride and not self.offset:
            return whole
        return whole.as_strided(self.size, self.stride, whole.storage_offset() + self.offset)


@dataclass
class Native:
    """Calls of native kernels up to the call `last`: the kernels, the fields of their jobs, and which of these are
    addresses in whose memory, how far from its start."""

    last: int = 0
    kernels: list[Any] = field(default_factory=list)
    jobs: list[bytes] = field(default_factory=list)
    places: list[tuple[int, int, int]] = field(default_factory=list)


@dataclass
class Torch:
    """The call `last`, of torch's, with parts in the place of tensors, and the bases that it makes."""

    last: int
    call: Callable[..., Any]
    args: Any
    kwargs: Any
    made: list[int] = field(default_factory=list)


class Recording(TorchDispatchMode):
    """What is done while it is active. Native kernels are not called, and what torch answers becomes zeros."""

    def __init__(self, *inputs: Tensor):
        super().__init__()
        self.steps: list[Native | Torch] = []
        self.bases: list[Base] = []
        self.constants: list[Any] = []
        self.count = 0                                  # of calls
        self._known: dict[int, int] = {}                # bases by the addresses of their memory
        self._kept: list[Tensor] = []                   # so that these addresses stay their own
        for given in inputs:
            self.base(given, inside=False)

    def base(self, x: Tensor, *, inside: bool) -> int:
        """Notes the memory of a tensor; the next call writes what lies inside the block."""
        if _memory(x):                                  # it has numbers
            self._known[_memory(x)] = len(self.bases)
        self._kept.append(x)
        self.bases.append(Base(x.data_ptr(), x.untyped_storage().nbytes(), self.count + 1, self.count + 1, inside))
        return len(self.bases) - 1

    def place(self, x: Any) -> tuple[int, int] | None:
        """The base in which a tensor lies, which the present call needs, and how many bytes from its start; None for a
        constant."""
        base = self._known.get(_memory(x)) if isinstance(x, Tensor) else None
        if base is None:
            if not isinstance(x, int | float | None):
                self.constants.append(x)                # whose address is told
            return None
        self.bases[base].last = self.count
        return base, x.data_ptr() - self.bases[base].start if x.numel() else 0

    def part(self, x: Tensor) -> Part | Tensor:
        found = self.place(x)
        return x if found is None else Part(found[0], x.shape, x.stride(), found[1] // x.element_size(), x.dtype)

    def native(self, kernel: Any, fields: struct.Struct, given: Sequence[build.Given]) -> None:
        self.count += 1
        if not self.steps or not isinstance(self.steps[-1], Native):
            self.steps.append(Native())
        step = self.steps[-1]
        assert isinstance(step, Native)
        at = sum(map(len, step.jobs)) // WORD
        for i, x in enumerate(given):
            if (found := self.place(x)) is not None:
                step.places.append((at + i, *found))
        step.last = self.count
        step.kernels.append(kernel)
        step.jobs.append(fields.pack(*map(build.plain, given)))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        found, empty = func(*args, **kwargs), func in EMPTY
        answers = tree_leaves(found)
        if not all(isinstance(x, Tensor) and x.layout is torch.strided for x in answers):
            raise ExportError(f"{func} does not answer with tensors")
        if any(x.device.type != "cpu" for x in answers):            # it has a shape alone
            return found
        given = {_memory(x) for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        answered = set(map(_memory, answers))
        same = not empty and answered <= given
        changes = func._schema.is_mutable or same and func.namespace != "aten"      # oneDNN's do not say so
        if same and not changes:
            return found                                            # a view
        made: list[int] = []
        if not empty:
            self.count += 1
            given_args, given_kwargs = tree_map_only(Tensor, self.part, (args, kwargs))
            self.steps.append(Torch(self.count, func, given_args, given_kwargs, made))
        if changes:
            if not (answered or given) <= set(self._known):
                raise ExportError(f"{func} may change a constant")
            return found

        def zeros(x: Tensor) -> Tensor:
            memory = torch.zeros(x.untyped_storage().nbytes(), dtype=torch.uint8).view(x.dtype)     # taken when written
            fresh = memory.as_strided(x.shape, x.stride(), x.storage_offset())
            made.append(self.base(fresh, inside=empty))
            return fresh
        return tree_map_only(Tensor, zeros, found)


def _memory(x: Tensor) -> int:
    """The address of what a tensor shares with its views; 0 for a packed weight, which has none."""
    return x.untyped_storage().data_ptr() if x.layout is torch.strided else 0
