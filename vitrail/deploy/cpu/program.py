"""A recorded plan that runs: native kernels follow each other without Python.

What lies where is settled once. The answers of native kernels share one block of memory, in which two have the same
place where the one is read for the last time before the other is written.
"""
import copy
import ctypes
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map, tree_map_only

from vitrail.core.errors import ExportError
from vitrail.deploy.cpu.native import build
from vitrail.deploy.cpu.record import WORD, Base, Native, Part, Recording, Torch

ALIGNED = 64                        # bytes
Values = list[Tensor | None]        # by base: the inputs and what torch answered, as long as it is needed
Times = dict[str, float]            # seconds, by what was called


class Program:
    """A plan, recorded for inputs like the examples: tensors in, one tensor or a tuple of them out. One thread at a
    time runs it.

    natives: how many calls of native kernels it makes.
    """

    def __init__(self, plan: Callable[..., Any], *inputs: Tensor):
        """Raises ExportError for a plan that cannot be recorded."""
        self.plan = plan
        likes = [torch.zeros(given.shape, dtype=given.dtype) for given in inputs]
        self._likes = [(like.shape, like.stride(), like.dtype) for like in likes]
        recording = Recording(*likes)
        with _as_it_is(), torch.no_grad(), build.told(recording), recording:
            answer = plan(*likes)
        recording.count += 1
        found = tree_map_only(Tensor, recording.part, answer)
        self._bases, self._constants = recording.bases, recording.constants
        self._block = torch.empty(settle(self._bases), dtype=torch.uint8)
        self._answer = tree_map(self._fixed, found)
        self._lock, before = threading.Lock(), 0
        self._steps: list[_Native | _Torch] = []
        for step in recording.steps:
            over = [i for i, base in enumerate(self._bases) if not base.inside and before < base.last <= step.last]
            made = _Native(step, self._bases, self._block) if isinstance(step, Native) else \
                _Torch(step, *tree_map(self._fixed, (step.args, step.kwargs)))
            self._steps.append(made)
            made.over, before = over, step.last
        self.natives = sum(len(step.kernels) for step in recording.steps if isinstance(step, Native))

    def __call__(self, *inputs: Tensor, times: Times | None = None) -> Any:
        """The plan's answer. `times` gets what each kernel and each operation of torch's took, which then are called
        one by one. Raises ExportError for inputs of other shapes than the examples'."""
        given = [self._checked(number, tensor) for number, tensor in enumerate(inputs)]
        with self._lock, torch.inference_mode(), _as_it_is():
            values: Values = [None] * len(self._bases)
            values[:len(given)] = given
            for step in self._steps:
                step.go(values, times)
                for base in step.over:
                    values[base] = None
            return tree_map(partial(_answered, values=values), self._answer)

    def _checked(self, number: int, given: Tensor) -> Tensor:
        """An input as it was recorded."""
        shape, stride, dtype = self._likes[number]
        if given.shape != shape or given.dtype != dtype or given.device.type != "cpu":
            raise ExportError(f"this plan is for inputs {tuple(shape)} in {dtype} on the processor, and was given "
                              f"{tuple(given.shape)} in {given.dtype} on {given.device}")
        return given if given.stride() == stride else given.contiguous()

    def __deepcopy__(self, memo: dict[int, Any]) -> "Program":
        return Program(copy.deepcopy(self.plan, memo), *(torch.zeros(shape, dtype=dtype)
                                                         for shape, _, dtype in self._likes))

    def _fixed(self, x: Any) -> Any:
        """A tensor, where it lies inside the block and stays the same."""
        if not isinstance(x, Part) or not self._bases[x.base].inside:
            return x
        base = self._bases[x.base]
        whole = self._block[base.at:base.at + base.bytes].view(x.dtype)
        return whole.as_strided(x.size, x.stride, whole.storage_offset() + x.offset)


def _as_it_is() -> AbstractContextManager[object]:
    """No number becomes another type than the plan says."""
    on = torch.is_autocast_enabled("cpu")
    return torch.autocast("cpu", enabled=False) if on else nullcontext()


def _there(x: Any, values: Values) -> Any:
    """A tensor, where torch answered it."""
    if not isinstance(x, Part):
        return x
    whole = values[x.base]
    assert whole is not None
    return x.of(whole)


def _answered(x: Any, values: Values) -> Any:
    """An answer that no later call of the plan writes over."""
    return _there(x, values) if isinstance(x, Part) else x.clone()


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
