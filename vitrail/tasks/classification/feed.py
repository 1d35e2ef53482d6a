"""What this task asks of whoever feeds it images; `vitrail.data` fits, and is handed in as objects."""
from collections.abc import Callable, Iterator
from typing import Protocol

from torch import Tensor

Transform = Callable[[Tensor], Tensor]          # uint8 (3, H, W) to the model's input, float (3, h, w)


class Left(Protocol):
    """A file that a source left out when it was opened, and why."""

    @property
    def key(self) -> str: ...
    @property
    def why(self) -> str: ...


class Source(Protocol):
    """Labelled images by number. `read` raises DataError naming the key."""

    @property
    def name(self) -> str: ...
    @property
    def classes(self) -> tuple[str, ...]: ...
    @property
    def skipped(self) -> tuple[Left, ...]: ...
    def __len__(self) -> int: ...
    def key(self, index: int) -> str: ...
    def label(self, index: int) -> int: ...
    def read(self, index: int) -> Tensor: ...
    def fingerprint(self) -> str: ...


class Batch(Protocol):
    """images float (B, 3, H, W), labels (B,), indices (B,) into the source."""

    images: Tensor
    labels: Tensor
    indices: Tensor
    epoch: int
    step: int

    def __len__(self) -> int: ...


class Batches(Protocol):
    """This process's share of each batch of an epoch; `len` is the number of steps, alike in all processes."""

    def __len__(self) -> int: ...
    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]: ...


class Loader(Protocol):
    """Makes batches of a source; `batch` counts the images of all ``of`` processes."""

    def __call__(self, source: Source, transform: Transform, *, batch: int, seed: int, shuffle: bool, workers: int,
                 rank: int, of: int, drop_last: bool) -> Batches: ...
