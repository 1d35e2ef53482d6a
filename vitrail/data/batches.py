"""Batches whose contents are a function of seed, epoch and step: not of workers, processes or restarts."""
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from vitrail.core.errors import SettingsError, TrainingError, VitrailError
from vitrail.core.seeds import derive_seed
from vitrail.data.settings import check_number
from vitrail.data.source import Source
from vitrail.data.workers import quiet_worker, starting

Transform = Callable[[Tensor], Tensor]
Pick = tuple[int, int]                                      # epoch, index
Loaded = tuple[Tensor, Tensor, Tensor] | VitrailError       # images, labels, indices; or why not


@dataclass
class Batch:
    """One process's share of a batch."""

    images: Tensor                                          # (B, 3, h, w) float32, normalised
    labels: Tensor                                          # (B) int64
    indices: Tensor                                         # (B) int64, into the source
    epoch: int
    step: int                                               # within the epoch

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device | str) -> "Batch":
        images, labels, indices = (t.to(device, non_blocking=True) for t in (self.images, self.labels, self.indices))
        return Batch(images, labels, indices, self.epoch, self.step)


class Batches:
    """Epochs of batches. `batch` is the size over all `of` processes; rank r gets the r-th slice of each batch.

    The order of an epoch is a permutation from derive_seed(seed, "order", epoch); a sample is transformed under random
    generators seeded with derive_seed(seed, "augment", epoch, index). Without drop_last the last batch may be short, and
    a process whose slice of it is empty does not see it; over all processes every sample comes exactly once.
    At most two batches a worker wait in memory. One epoch can be under way at a time.

    Raises SettingsError where the numbers do not fit: fewer samples than a batch with drop_last, a batch that the
    processes cannot share evenly. An unreadable image raises its DataError here, a lost worker TrainingError.
    """

    def __init__(self, source: Source, transform: Transform, *, batch: int, seed: int = 0, shuffle: bool = False,
                 workers: int = 0, rank: int = 0, of: int = 1, drop_last: bool = False,
                 start_method: str | None = None) -> None:
        check_number("batch", batch, 1, 2**24, whole=True)
        check_number("workers", workers, 0, 1024, whole=True)
        check_number("rank", rank, 0, of - 1, whole=True)
        if not len(source):
            raise SettingsError(f"{source.name}: there is no sample to make a batch of")
        if drop_last and len(source) < batch:
            raise SettingsError(f"{source.name}: {len(source)} samples do not fill one batch of {batch}; "
                                f"make batch {len(source)} or smaller")
        if drop_last and batch % of:
            raise SettingsError(f"a batch of {batch} cannot be shared evenly by {of} processes; "
                                f"make it a multiple of {of}")
        self.source, self.batch, self.seed, self.shuffle = source, batch, seed, shuffle
        self.rank, self.of, self.drop_last = rank, of, drop_last
        self.plan: list[list[Pick]] = []
        self.workers = workers
        self.loader = DataLoader(
            _Samples(source, transform, seed), batch_sampler=_Plan(self), collate_fn=_whole, num_workers=workers,
            worker_init_fn=quiet_worker if workers else None, persistent_workers=workers > 0,
            prefetch_factor=2 if workers else None, pin_memory=torch.cuda.is_available(),
            multiprocessing_context=start_method if workers else None,
            generator=torch.Generator())                    # its own, so that the caller's stream stays untouched

    def __len__(self) -> int:
        whole, rest = divmod(len(self.source), self.batch)
        return whole + (1 if rest and not self.drop_last else 0)

    def order(self, epoch: int) -> list[int]:
        """The indices of an epoch, in the order in which all processes together meet them."""
        if not self.shuffle:
            return list(range(len(self.source)))
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "order", epoch))
        return torch.randperm(len(self.source), generator=generator).tolist()

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from step `start` on."""
        order = self.order(epoch)
        steps: list[int] = []
        self.plan = []
        for step in range(start, len(self)):
            members = order[step * self.batch:(step + 1) * self.batch]
            mine = members[self.rank * len(members) // self.of:(self.rank + 1) * len(members) // self.of]
            if mine:
                steps.append(step)
                self.plan.append([(epoch, index) for index in mine])
        loaded = self._loaded()
        for step in steps:
            found = next(loaded)
            if isinstance(found, VitrailError):
                raise found
            images, labels, indices = found
            yield Batch(images, labels, indices, epoch, step)

    def close(self) -> None:
        """Let the worker processes go. They also end with this object."""
        iterator, self.loader._iterator = self.loader._iterator, None
        if iterator is not None and self.workers:
            iterator._shutdown_workers()  # type: ignore[attr-defined]

    def _loaded(self) -> Iterator[Loaded]:
        try:
            with starting():
                loading = iter(self.loader)
            yield from loading
        except RuntimeError as e:
            lost = lost_worker(e, self.workers)
            if lost is None:
                raise
            self.close()
            raise lost from None


class _Plan:
    """The batches that the loader is to fetch next: whatever the epoch under way needs."""

    def __init__(self, batches: Batches) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[list[Pick]]:
        return iter(self.batches.plan)

    def __len__(self) -> int:
        return len(self.batches.plan)


class _Samples(Dataset[Any]):
    """Whole batches by (epoch, index). An error that vitrail means to raise comes back as a value, its class kept."""

    def __init__(self, source: Source, transform: Transform, seed: int) -> None:
        self.source, self.transform, self.seed = source, transform, seed

    def __getitems__(self, picks: list[Pick]) -> Loaded:
        kept = torch.get_rng_state(), random.getstate(), np.random.get_state()  # noqa: NPY002
        try:
            images = self._images(picks)
        except VitrailError as e:
            return e
        finally:
            torch.set_rng_state(kept[0])
            random.setstate(kept[1])
            np.random.set_state(kept[2])
        indices = torch.tensor([index for _, index in picks])
        return images, torch.tensor([self.source.label(index) for _, index in picks]), indices

    def _images(self, picks: list[Pick]) -> Tensor:
        """All images, each put in its place while it is in the cache: stacking them at the end took longer."""
        first = self._image(*picks[0])
        images = _room(len(picks), first)
        images[0] = first
        for place, pick in enumerate(picks[1:], 1):
            image = self._image(*pick)
            if (image.shape, image.dtype) != (first.shape, first.dtype):
                raise SettingsError(f"{self.source.name}: a batch needs images of one size and type, and the transform "
                                    f"makes {tuple(first.shape)} {first.dtype} of {self.source.key(picks[0][1])} and "
                                    f"{tuple(image.shape)} {image.dtype} of {self.source.key(pick[1])}")
            images[place] = image
        return images

    def _image(self, epoch: int, index: int) -> Tensor:
        seed = derive_seed(self.seed, "augment", epoch, index)
        torch.default_generator.manual_seed(seed)           # the CPU's alone: a device's stream belongs to the model
        random.seed(seed)
        np.random.seed(seed % 2**32)
        return self.transform(self.source.read(index))


def lost_worker(error: RuntimeError, workers: int) -> TrainingError | None:
    """What to say where `error` is a loader's worker that died: torch may raise it in the middle of a step."""
    if "DataLoader worker" not in str(error):
        return None
    return TrainingError(f"a process that loads images was lost ({str(error).splitlines()[0]}). Most often the "
                         f"machine has run out of memory or of shared memory: use fewer workers than {workers}, or a "
                         "smaller batch")


def _room(count: int, like: Tensor) -> Tensor:
    """(count, *like.shape), empty. In a worker it lies in shared memory, or it would have to be copied there."""
    shape = (count, *like.shape)
    if get_worker_info() is None:
        return torch.empty(shape, dtype=like.dtype, device=like.device)
    storage = torch.UntypedStorage._new_shared(math.prod(shape) * like.element_size())     # as torch's collating does
    return torch.empty(0, dtype=like.dtype).set_(storage).view(shape)


def _whole(loaded: Any) -> Any:
    return loaded
