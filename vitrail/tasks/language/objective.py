"""Language as an objective of the training loop, whatever its kind."""
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vitrail.core.errors import SettingsError
from vitrail.data.loader import Loader
from vitrail.tasks.language.batches import Lines, collate
from vitrail.tasks.language.kind import Kind
from vitrail.tasks.language.losses import over_processes
from vitrail.tasks.language.model import LanguageModel, language_model


class LanguageObjective:
    """Trains a network of language on some samples and scores it on others. The headline is the held-out perplexity.

    build: makes the model, called once, after seeding. save: writes a finished model into a folder
    (vitrail.save_model). batch: samples a step, over all processes and micro-batches. data: how the texts are known to
    the user, with their "fingerprint", as JSON. Raises SettingsError for a batch that the samples do not fill.
    """

    headline = "perplexity"
    larger_is_better = False

    def __init__(self, *, kind: Kind[Any, Any], build: Callable[[], nn.Module], train: Any, val: Any,
                 save: Callable[[LanguageModel, Path], object], data: Mapping[str, Any], seed: int, batch: int,
                 accumulate: int = 1, smoothing: float = 0.0):
        if not 0 < batch <= len(train):
            raise SettingsError(f"a batch of {batch} cannot be taken from {len(train)} training samples: choose one "
                                f"from 1 to {len(train)}")
        self.kind = kind
        self.build = build
        self.train = train
        self.val = val
        self.write = save
        self.data = dict(data)
        self.seed = seed
        self.batch = batch
        self.accumulate = accumulate
        self.smoothing = smoothing

    def model(self) -> LanguageModel:
        return language_model(self.build(), self.kind.name)

    def batches(self, rank: int, of: int) -> Loader[Lines]:
        """Whole training batches. Raises SettingsError where they cannot be shared out."""
        if self.batch % (of * self.accumulate):
            raise SettingsError(f"a batch of {self.batch} cannot be shared by {of} processes x {self.accumulate} "
                                f"micro-batches: choose a multiple of {of * self.accumulate}")
        return Loader(self.train, collate, batch=self.batch, seed=self.seed, shuffle=True, rank=rank, of=of,
                      drop_last=True)

    def loss(self, model: nn.Module, batch: Lines, step: int) -> dict[str, Tensor]:
        return self.kind.loss(model, batch, self.smoothing)

    @torch.no_grad()
    def evaluate(self, model: nn.Module, device: torch.device, rank: int, of: int) -> dict[str, float]:
        """Scores of all held-out samples, over all processes."""
        return scores_of(self.kind, model, self.val, batch=max(of, self.batch // self.accumulate), device=device,
                         rank=rank, of=of)

    def describe(self) -> dict[str, Any]:
        """The data and what is made of them, as JSON."""
        return {"task": self.kind.name, **self.data, "smoothing": self.smoothing,
                "samples": {"train": len(self.train), "val": len(self.val)}}

    def baselines(self) -> dict[str, dict[str, float]]:
        """What simple ways to do the same reach on what is held out."""
        return self.kind.baselines(self.train, self.val)

    def names(self, batch: Lines) -> list[str]:
        """The samples of a batch as the user knows them."""
        return [self.train.key(i) for i in batch.indices.tolist()]

    def save(self, model: nn.Module, folder: Path) -> None:
        self.write(language_model(model, self.kind.name), folder)


@torch.no_grad()
def scores_of(kind: Kind[Any, Any], model: nn.Module, dataset: Any, *, batch: int, device: torch.device | str,
              rank: int = 0, of: int = 1) -> dict[str, float]:
    """Scores over all samples of a data set, by one process or many."""
    asked = language_model(model, kind.name)
    sums = dict.fromkeys(kind.summed, 0.0)
    for part in Loader(dataset, collate, batch=batch, rank=rank, of=of).epoch(0):
        for name, value in kind.tally(asked, part.to(device)).items():
            sums[name] += value
    return kind.scores(over_processes(sums, of, torch.device(device)))
