"""What a batch is, whatever its samples hold, and what makes one of them."""
import math
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol, Self, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from vitrail.core.seeds import derive_seed

B_co = TypeVar("B_co", bound="Batch", covariant=True)


@dataclass
class Batch:
    """The base of batches: one process's share of a whole batch. Tensors, lists and tuples as long as it hold one
    entry a sample; a micro-batch is cut from them."""

    indices: Tensor                                         # (B) int64, into the data set

    def __len__(self) -> int:
        return len(self.indices)

    def to(self, device: torch.device | str) -> Self:
        """The batch with its tensors on a device."""
        moved = {f.name: value.to(device, non_blocking=True) for f in fields(self)
                 if isinstance(value := getattr(self, f.name), Tensor)}
        return replace(self, **moved)

    def pin_memory(self) -> Self:
        """The batch in memory from which it can be copied to a GPU while that computes; torch's loader asks for it."""
        pinned = {f.name: value.pin_memory() for f in fields(self)
                  if isinstance(value := getattr(self, f.name), Tensor)}
        return replace(self, **pinned)


class Collate(Protocol[B_co]):
    """How samples become a batch. It travels to worker processes, so it holds settings only."""

    def __call__(self, dataset: Any, indices: Sequence[int], epoch: int, mine: slice) -> B_co:
        """The part `mine` of the batch of these samples.

        All indices are given, those of other processes too: padding, and a mean over the whole batch, are decided over
        all of them (`dataset.targets(i)` costs little); only the samples of `mine` need be read.
        """


def seed_sample(seed: int, epoch: int, index: int) -> None:
    """Before a sample is augmented: what is drawn for it is a function of seed, epoch and index alone."""
    drawn = derive_seed(seed, "augment", epoch, index)
    torch.default_generator.manual_seed(drawn)              # the CPU's alone: a device's stream belongs to the model
    random.seed(drawn)
    np.random.seed(drawn % 2**32)


@contextmanager
def kept_generators() -> Iterator[None]:
    """Within, global generators may be seeded; afterwards they go on where they were."""
    torch_state = torch.get_rng_state()
    python_state = random.getstate()
    numpy_state = np.random.get_state()  # noqa: NPY002
    try:
        yield
    finally:
        torch.set_rng_state(torch_state)
        random.setstate(python_state)
        np.random.set_state(numpy_state)


def empty_batch(count: int, like: Tensor) -> Tensor:
    """(count, *like.shape), uninitialised. In a worker it lies in shared memory, or it would have to be copied
    there."""
    shape = (count, *like.shape)
    if get_worker_info() is None:
        return torch.empty(shape, dtype=like.dtype, device=like.device)
    storage = torch.UntypedStorage._new_shared(math.prod(shape) * like.element_size())     # as torch's collating does
    return torch.empty(0, dtype=like.dtype).set_(storage).view(shape)
