"""Batches of texts whose contents are a function of seed, epoch and step: not of processes or restarts."""
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Generic, Protocol, Self, TypeVar

import torch
from torch import Tensor

from vitrail.core.errors import SettingsError
from vitrail.core.seeds import derive_seed
from vitrail.data.text.vocabulary import PAD


@dataclass
class Lines:
    """The base of batches. `share`: tokens to predict, for each sample of the whole batch, on the average: divided by
    it, the sums of micro-batches and processes give the mean over all tokens of the batch."""

    indices: Tensor                                         # (B) int64, into the samples
    share: Tensor                                           # () float32

    def __len__(self) -> int:
        return len(self.indices)

    def to(self, device: torch.device | str) -> Self:
        return replace(self, **{f.name: getattr(self, f.name).to(device, non_blocking=True) for f in fields(self)})


@dataclass
class TranslationBatch(Lines):
    source: Tensor                                          # (B, S) int64
    target: Tensor                                          # (B, T), beginning with START
    expected: Tensor                                        # (B, T), ending with END: one step ahead of the target


@dataclass
class CausalBatch(Lines):
    tokens: Tensor                                          # (B, N)
    expected: Tensor                                        # (B, N), one step ahead


@dataclass
class MaskedBatch(Lines):
    tokens: Tensor                                          # (B, N)
    segments: Tensor                                        # (B, N): 0 the first segment, 1 the second
    expected: Tensor                                        # (B, N), PAD where there is nothing to predict
    next: Tensor                                            # (B): 0 where the second segment follows the first, else 1


B_co = TypeVar("B_co", bound=Lines, covariant=True)


class Samples(Protocol[B_co]):
    """Samples by index, and batches of them."""

    def __len__(self) -> int: ...

    def key(self, index: int) -> str:
        """The sample as the user knows it."""

    def batch(self, indices: Sequence[int], epoch: int, mine: slice) -> B_co:
        """The part `mine` of the batch of these samples, padded as the whole batch must be."""


class TextBatches(Generic[B_co]):
    """Epochs of batches. `batch` is the size over all `of` processes; rank r gets the r-th slice of each batch.

    The order of an epoch is a permutation from derive_seed(seed, "order", epoch). Without drop_last the last batch may be
    short, and a process whose slice of it is empty does not see it. Raises SettingsError where the samples do not fill
    a batch with drop_last, or the processes cannot share one evenly.
    """

    def __init__(self, samples: Samples[B_co], *, batch: int, seed: int = 0, shuffle: bool = False, rank: int = 0,
                 of: int = 1, drop_last: bool = False):
        if not len(samples):
            raise SettingsError("there is no text to make a batch of")
        if drop_last and len(samples) < batch:
            raise SettingsError(f"{len(samples)} samples do not fill one batch of {batch}: make batch {len(samples)} "
                                "or smaller")
        if drop_last and batch % of:
            raise SettingsError(f"a batch of {batch} cannot be shared evenly by {of} processes: make it a multiple of "
                                f"{of}")
        self.samples, self.batch, self.seed, self.shuffle = samples, batch, seed, shuffle
        self.rank, self.of, self.drop_last = rank, of, drop_last

    def __len__(self) -> int:
        whole, rest = divmod(len(self.samples), self.batch)
        return whole + (1 if rest and not self.drop_last else 0)

    def order(self, epoch: int) -> list[int]:
        """The indices of an epoch, in the order in which all processes together meet them."""
        if not self.shuffle:
            return list(range(len(self.samples)))
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "order", epoch))
        found: list[int] = torch.randperm(len(self.samples), generator=generator).tolist()
        return found

    def epoch(self, epoch: int, start: int = 0) -> Iterator[B_co]:
        """The batches of an epoch from step `start` on."""
        order = self.order(epoch)
        for step in range(start, len(self)):
            members = order[step * self.batch:(step + 1) * self.batch]
            mine = slice(self.rank * len(members) // self.of, (self.rank + 1) * len(members) // self.of)
            if members[mine]:
                yield self.samples.batch(members, epoch, mine)


def padded(rows: Sequence[Sequence[int]], width: int) -> Tensor:
    """Rows of numbers as (B, width) int64, filled up with PAD."""
    return torch.tensor([[*row, *[PAD] * (width - len(row))] for row in rows], dtype=torch.int64)


def shared(indices: Sequence[int], mine: slice, counts: Sequence[int]) -> dict[str, Any]:
    """What every batch has; `counts`: tokens to predict, of each sample of the whole batch."""
    return {"indices": torch.tensor(indices[mine], dtype=torch.int64),
            "share": torch.tensor(sum(counts) / len(counts), dtype=torch.float32)}
