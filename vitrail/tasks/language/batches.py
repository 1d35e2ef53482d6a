"""Batches of texts: what each kind is given, and what is expected of it."""
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vitrail.data.batch import Batch
from vitrail.tasks.language.vocabulary import PAD


@dataclass
class Lines(Batch):
    """The base of batches. `share`: tokens to predict, for each sample of the whole batch, on the average: divided by
    it, the sums of micro-batches and processes give the mean over all tokens of the batch."""

    share: Tensor                                           # () float32


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


def collate(dataset: Any, indices: Sequence[int], epoch: int, mine: slice) -> Any:
    """A batch of texts, padded as the whole batch must be: `data.batch.Collate` of every kind."""
    return dataset.batch(indices, epoch, mine)


def padded(rows: Sequence[Sequence[int]], width: int) -> Tensor:
    """Rows of numbers as (B, width) int64, filled up with PAD."""
    return torch.tensor([[*row, *[PAD] * (width - len(row))] for row in rows], dtype=torch.int64)


def shared(indices: Sequence[int], mine: slice, counts: Sequence[int]) -> dict[str, Any]:
    """What every batch has; `counts`: tokens to predict, of each sample of the whole batch."""
    return {"indices": torch.tensor(indices[mine], dtype=torch.int64),
            "share": torch.tensor(sum(counts) / len(counts), dtype=torch.float32)}
