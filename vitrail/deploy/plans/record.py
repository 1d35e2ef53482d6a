"""A plan as what it does: calls of native kernels, which follow each other without Python, and calls of torch between.

What lies where is settled once. The answers of native kernels share one block of memory, in which two have the same
place where the one is read for the last time before the other is written.
"""
import copy
import ctypes
import struct
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map, tree_map_only

from vitrail.core.errors import ExportError
from vitrail.deploy.native import build

aten = torch.ops.aten
EMPTY = {aten.empty.memory_format, aten.empty_strided.default, aten.empty_like.default, aten.new_empty.default,
         aten.new_empty_strided.default}
ALIGNED = 64            # bytes
WORD = 8                # bytes of each field of a job


@dataclass
class Base:
    """Memory that tensors share: the image's, that of an answer of torch's, or a place `inside` the block, `at` bytes
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

    def __init__(self, image: Tensor):
        super().__init__()
        self.steps: list[Native | Torch] = []
        self.bases: list[Base] = []
        self.constants: list[Any] = []
        self.count = 0                                  # of calls
        self._known: dict[int, int] = {}                # bases by the addresses of their memory
        self._kept: list[Tensor] = []                   # so that these addresses stay their own
        self.base(image, inside=False)

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
            self.constants.append(x)
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
        found, changes, empty = func(*args, **kwargs), func._schema.is_mutable, func in EMPTY
        answers = tree_leaves(found)
        if not all(isinstance(x, Tensor) and x.layout is torch.strided for x in answers):
            raise ExportError(f"{func} does not answer with tensors")
        if any(x.device.type != "cpu" for x in answers):            # it has a shape alone
            return found
        given = {_memory(x) for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        if not changes and not empty and given.issuperset(map(_memory, answers)):
            return found                                            # a view
        made: list[int] = []
        if not empty:
            self.count += 1
            given_args, given_kwargs = tree_map_only(Tensor, self.part, (args, kwargs))
            self.steps.append(Torch(self.count, func, given_args, given_kwargs, made))
        if changes:
            if not given <= set(self._known):
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


def settle(bases: Sequence[Base]) -> int:
    """Gives what lies inside the block its place, the largest first, where nothing else lies at that time. How many
    bytes the block has."""
    placed: list[Base] = []
    for base in sorted((b for b in bases if b.inside), key=lambda b: -b.bytes):
        base.at = 0
        for other in sorted((b for b in placed if b.first <= base.last and base.first <= b.last), key=lambda b: b.at):
            if base.at + base.bytes > other.at:
                base.at = max(base.at, _aligned(other.at + other.bytes))
        placed.append(base)
    return max((_aligned(b.at + b.bytes) for b in placed), default=0)


def _aligned(count: int) -> int:
    return -(-count // ALIGNED) * ALIGNED


Values = list[Tensor | None]        # by base: the image and what torch answered, as long as it is needed
Times = dict[str, float]            # seconds, by what was called


class Program:
    """A plan, recorded for images (B, 3, H, W) like an example. One thread at a time runs it.

    natives: how many calls of native kernels it makes.
    """

    def __init__(self, plan: Callable[[Tensor], Tensor], image: Tensor):
        """Raises ExportError for a plan that cannot be recorded."""
        self.plan, self._image = plan, torch.zeros(image.shape, dtype=image.dtype)
        recording = Recording(self._image)
        with torch.no_grad(), build.told(recording), recording:
            answer = plan(self._image)
        recording.count += 1
        found, self._bases, self._constants = recording.part(answer), recording.bases, recording.constants
        self._block = torch.empty(settle(self._bases), dtype=torch.uint8)
        self._answer = self._fixed(found)
        self._lock, before = threading.Lock(), 0
        self._steps: list[_Native | _Torch] = []
        for step in recording.steps:
            over = [i for i, base in enumerate(self._bases) if not base.inside and before < base.last <= step.last]
            made = _Native(step, self._bases, self._block) if isinstance(step, Native) else \
                _Torch(step, *tree_map(self._fixed, (step.args, step.kwargs)))
            self._steps.append(made)
            made.over, before = over, step.last
        self.natives = sum(len(step.kernels) for step in recording.steps if isinstance(step, Native))

    def __call__(self, image: Tensor, times: Times | None = None) -> Tensor:
        """The plan's answer. `times` gets what each kernel and each operation of torch's took, which then are called
        one by one."""
        if image.stride() != self._image.stride():
            image = image.contiguous()
        with self._lock, torch.inference_mode():
            values: Values = [None] * len(self._bases)
            values[0] = image
            for step in self._steps:
                step.go(values, times)
                for base in step.over:
                    values[base] = None
            return _there(self._answer, values) if isinstance(self._answer, Part) else self._answer.clone()

    def __deepcopy__(self, memo: dict[int, Any]) -> "Program":
        return Program(copy.deepcopy(self.plan, memo), self._image)

    def _fixed(self, x: Any) -> Any:
        """A tensor, where it lies inside the block and stays the same."""
        if not isinstance(x, Part) or not self._bases[x.base].inside:
            return x
        base = self._bases[x.base]
        whole = self._block[base.at:base.at + base.bytes].view(x.dtype)
        return whole.as_strided(x.size, x.stride, whole.storage_offset() + x.offset)


def _there(x: Any, values: Values) -> Any:
    """A tensor, where torch answered it."""
    if not isinstance(x, Part):
        return x
    whole = values[x.base]
    assert whole is not None
    return x.of(whole)


class _Native:
    """Native calls, ready to be made."""

    over: list[int]

    def __init__(self, step: Native, bases: Sequence[Base], block: Tensor):
        self._jobs = ctypes.create_string_buffer(b"".join(step.jobs))
        self._fields = (ctypes.c_int64 * (len(self._jobs) // WORD)).from_buffer(self._jobs)
        self._calls = (ctypes.c_int64 * (2 * len(step.jobs)))()
        self._names, start = [kernel.__name__ for kernel in step.kernels], ctypes.addressof(self._jobs)
        for i, (kernel, job) in enumerate(zip(step.kernels, step.jobs, strict=True)):
            self._calls[2 * i:2 * i + 2] = [ctypes.cast(kernel, ctypes.c_void_p).value or 0, start]
            start += len(job)
        for at, base, offset in step.places:
            if bases[base].inside:
                self._fields[at] = block.data_ptr() + bases[base].at + offset
        self._moving = [(at, base, offset) for at, base, offset in step.places if not bases[base].inside]

    def go(self, values: Values, times: Times | None) -> None:
        for at, base, offset in self._moving:
            whole = values[base]
            assert whole is not None
            self._fields[at] = whole.data_ptr() + offset
        if times is None:
            self._run(0, len(self._names))
            return
        for i, name in enumerate(self._names):
            start = time.perf_counter()
            self._run(i, 1)
            times[name] = times.get(name, 0.0) + time.perf_counter() - start

    def _run(self, first: int, count: int) -> None:
        if build.runner()(ctypes.addressof(self._calls) + 2 * WORD * first, count, torch.get_num_threads()):
            raise MemoryError("there is no memory for the work of a native kernel")


class _Torch:
    """A call of torch's, ready to be made."""

    over: list[int]

    def __init__(self, step: Torch, args: Any, kwargs: Any):
        self._call, self._made, self._given = step.call, step.made, (args, kwargs)
        self._moving = any(isinstance(x, Part) for x in tree_leaves(self._given))

    def go(self, values: Values, times: Times | None) -> None:
        start = time.perf_counter()
        args, kwargs = tree_map(partial(_there, values=values), self._given) if self._moving else self._given
        answers = tree_leaves(self._call(*args, **kwargs))
        for base, answer in zip(self._made, answers, strict=False):         # a call that changes tensors makes none
            values[base] = answer
        if times is not None:
            name = str(self._call)
            times[name] = times.get(name, 0.0) + time.perf_counter() - start
