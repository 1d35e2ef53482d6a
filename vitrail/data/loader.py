"""Batches whose contents are a function of seed, epoch and step: not of workers, processes or restarts."""
from collections.abc import Iterator
from typing import Any, Generic

import torch
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from vitrail.core.errors import SettingsError, TrainingError, VitrailError
from vitrail.core.seeds import derive_seed
from vitrail.data.batch import B_co, Collate, kept_generators
from vitrail.data.settings import check_number
from vitrail.data.workers import quiet_worker, starting

# the samples of a whole batch, the epoch, this process's part
Request = tuple[list[int], int, slice]


class Loader(Generic[B_co]):
    """Epochs of batches. `batch` is the size over all `of` processes; rank r gets the r-th slice of each batch.

    The order of an epoch is a permutation from derive_seed(seed, "order", epoch). `collate` makes a batch; what it
    draws from the global generators (`seed_sample`) leaves no trace on them. Without drop_last the last batch may be
    short, and a process whose slice of it is empty does not see it; over all processes every sample comes exactly once.
    At most two batches a worker wait in memory. One epoch can be under way at a time.

    Raises SettingsError where the numbers do not fit: fewer samples than a batch with drop_last, a batch that the
    processes cannot share evenly. An unreadable sample raises its DataError here, a lost worker TrainingError.

    >>> for batch in Loader(dataset, collate, batch=64, shuffle=True).epoch(0):     # doctest: +SKIP
    ...     model(batch.images)
    """

    def __init__(self, dataset: Any, collate: Collate[B_co], *, batch: int, seed: int = 0, shuffle: bool = False,
                 workers: int = 0, rank: int = 0, of: int = 1, drop_last: bool = False,
                 start_method: str | None = None) -> None:
        check_number("batch", batch, 1, 2**24, whole=True)
        check_number("workers", workers, 0, 1024, whole=True)
        check_number("rank", rank, 0, of - 1, whole=True)
        if not len(dataset):
            raise SettingsError(f"{dataset.name}: there is no sample to make a batch of")
        if drop_last and len(dataset) < batch:
            raise SettingsError(f"{dataset.name}: {len(dataset)} samples do not fill one batch of {batch}; "
                                f"make batch {len(dataset)} or smaller")
        if drop_last and batch % of:
            raise SettingsError(f"a batch of {batch} cannot be shared evenly by {of} processes; "
                                f"make it a multiple of {of}")
        self.dataset = dataset
        self.batch = batch
        self.seed = seed
        self.shuffle = shuffle
        self.rank = rank
        self.of = of
        self.drop_last = drop_last
        self.workers = workers
        self.requests: list[Request] = []
        self.loader = DataLoader(
            _Batches(dataset, collate), batch_size=None, sampler=_Requests(self), collate_fn=_as_it_is,
            num_workers=workers, worker_init_fn=quiet_worker if workers else None, persistent_workers=workers > 0,
            prefetch_factor=2 if workers else None, pin_memory=torch.cuda.is_available(),
            multiprocessing_context=start_method if workers else None,
            generator=torch.Generator())                    # its own, so that the caller's stream stays untouched

    def __len__(self) -> int:
        whole, rest = divmod(len(self.dataset), self.batch)
        return whole + (1 if rest and not self.drop_last else 0)

    def order(self, epoch: int) -> list[int]:
        """The indices of an epoch, in the order in which all processes together meet them."""
        if not self.shuffle:
            return list(range(len(self.dataset)))
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "order", epoch))
        permutation: list[int] = torch.randperm(len(self.dataset), generator=generator).tolist()
        return permutation

    def epoch(self, epoch: int, start: int = 0) -> Iterator[B_co]:
        """The batches of an epoch from step `start` on."""
        order = self.order(epoch)
        self.requests = []
        for step in range(start, len(self)):
            members = order[step * self.batch:(step + 1) * self.batch]
            mine = slice(self.rank * len(members) // self.of, (self.rank + 1) * len(members) // self.of)
            if members[mine]:
                self.requests.append((members, epoch, mine))
        for loaded in self._loaded():
            if isinstance(loaded, VitrailError):
                raise loaded
            yield loaded

    def close(self) -> None:
        """Let the worker processes go. They also end with this object."""
        iterator = self.loader._iterator
        self.loader._iterator = None
        if iterator is not None and self.workers:
            iterator._shutdown_workers()  # type: ignore[attr-defined]

    def _loaded(self) -> Iterator[Any]:
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


class _Requests:
    """The batches that torch's loader is to fetch next: whatever the epoch under way needs."""

    def __init__(self, loader: Loader[Any]) -> None:
        self.loader = loader

    def __iter__(self) -> Iterator[Request]:
        return iter(self.loader.requests)

    def __len__(self) -> int:
        return len(self.loader.requests)


class _Batches(TorchDataset[Any]):
    """Whole batches by request. An error that vitrail means to raise comes back as a value, its class kept."""

    def __init__(self, dataset: Any, collate: Collate[Any]) -> None:
        self.dataset = dataset
        self.collate = collate

    def __getitem__(self, request: Request) -> Any:
        try:
            with kept_generators():
                return self.collate(self.dataset, *request)
        except VitrailError as e:
            return e


def lost_worker(error: RuntimeError, workers: int) -> TrainingError | None:
    """What to say where `error` is a loader's worker that died: torch may raise it in the middle of a step."""
    if "DataLoader worker" not in str(error):
        return None
    return TrainingError(f"a process that loads samples was lost ({str(error).splitlines()[0]}). Most often the "
                         f"machine has run out of memory or of shared memory: use fewer workers than {workers}, or a "
                         "smaller batch")


def _as_it_is(loaded: Any) -> Any:
    return loaded
