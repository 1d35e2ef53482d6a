"""Rows of numbers in memory, as the toy tasks share them."""
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vitrail.core.errors import DataError
from vitrail.core.results import Excluded, Section, Tile
from vitrail.core.score import Score
from vitrail.data.batch import Batch
from vitrail.data.dataset import DatasetBase, Sample
from vitrail.data.loader import Loader
from vitrail.data.split import Splits, split


class Rows(DatasetBase):
    """`NAME:COUNT` rows, each made anew from its number whenever it is read."""

    def __init__(self, text: str, make: Callable[[int], Tensor]):
        _, _, count = text.partition(":")
        if not count.isdecimal():
            raise DataError(f"{text!r} is not NAME:COUNT")
        self.name, self.count, self.make = text, int(count), make

    def __len__(self) -> int:
        return self.count

    def key(self, index: int) -> str:
        return f"row {index}"

    def row(self, index: int) -> Tensor:
        return self.make(index)

    def read(self, index: int) -> Sample:
        return Sample(self.key(index), {"row": self.row(index)})

    def digest(self, index: int) -> str:
        return hashlib.sha256(self.row(index).numpy().tobytes()).hexdigest()


@dataclass
class RowBatch(Batch):
    rows: Tensor


def collate(dataset: Any, indices: Sequence[int], epoch: int, mine: slice) -> RowBatch:
    rows = [dataset.read(index).inputs["row"] for index in indices[mine]]
    return RowBatch(indices=torch.tensor(indices[mine]), rows=torch.stack(rows))


def batches(objective: Any, rank: int, of: int) -> Loader[RowBatch]:
    training = objective.settings.training
    return Loader(objective.train, collate, batch=training.batch, seed=training.seed, shuffle=True, rank=rank, of=of,
                  drop_last=True, workers=training.workers)


def open_splits(settings: Any, name: str, make: Callable[[int], Tensor]) -> Splits:
    source = settings.data.source
    if not source.startswith(f"{name}:"):
        raise DataError(f"{source!r} is not {name}:COUNT")
    splits = split(Rows(source, make), fraction=settings.data.val_fraction, seed=settings.training.seed)
    splits.train.row = lambda index: splits.train.read(index).inputs["row"]
    splits.val.row = lambda index: splits.val.read(index).inputs["row"]
    return splits


def describe(task: str, train: Any, val: Any) -> dict[str, Any]:
    data = {name: {"name": d.name, "samples": len(d), "fingerprint": d.fingerprint(), "skipped": []}
            for name, d in (("train", train), ("val", val))}
    return {"task": task, "data": data, "fingerprint": "/".join(d["fingerprint"] for d in data.values())}


@dataclass(frozen=True, kw_only=True)
class PlainEvaluation:
    """Scores, and nothing to draw."""

    about: str
    scores: Mapping[str, Score]
    samples: int
    excluded: tuple[Excluded, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {"samples": self.samples, "scores": {name: score.to_json() for name, score in self.scores.items()}}

    def tiles(self) -> Iterator[Tile]:
        yield Tile(name="samples", value=str(self.samples))

    def sections(self, model: Any, dataset: Any) -> Iterator[Section]:
        yield from ()
