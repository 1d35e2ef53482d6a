"""What translation, filling gaps and going on with a text share as tasks of the training loop."""
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor, nn

from vitrail.core.errors import SettingsError
from vitrail.data.text.batches import Lines, Samples, TextBatches
from vitrail.tasks.language.losses import over_processes
from vitrail.tasks.language.model import LanguageModel, language_model

S = TypeVar("S", bound=Samples[Any])
B = TypeVar("B", bound=Lines)


class LanguageTask(ABC, Generic[S, B]):
    """Trains a network of text on some samples and scores it on others. The headline is the held-out perplexity.

    build: makes the model, called once, after seeding. save: writes a finished model into a folder
    (vitrail.language.save_language_model). batch: samples a step, over all processes and micro-batches. data: how the
    texts are known to the user, with their "fingerprint", as JSON.
    """

    headline = "perplexity"
    larger_is_better = False
    name: ClassVar[str]                                     # one of model.TASKS
    summed: ClassVar[tuple[str, ...]]                       # the names of what `tally` counts

    def __init__(self, *, build: Callable[[], LanguageModel], train: S, held_out: S,
                 save: Callable[[LanguageModel, Path], object], data: Mapping[str, Any], seed: int, batch: int,
                 accumulate: int = 1, smoothing: float = 0.0):
        if not 0 < batch <= len(train):
            raise SettingsError(f"a batch of {batch} cannot be taken from {len(train)} training samples: choose one "
                                f"from 1 to {len(train)}")
        self.build, self.train, self.held_out, self.write, self.data = build, train, held_out, save, dict(data)
        self.seed, self.batch, self.accumulate, self.smoothing = seed, batch, accumulate, smoothing

    @abstractmethod
    def loss(self, model: nn.Module, batch: B, step: int) -> dict[str, Tensor]:
        """{"loss": the mean over the tokens that are to be answered, ...}."""

    @abstractmethod
    def tally(self, model: LanguageModel, batch: B) -> dict[str, float]:
        """Sums over a held-out batch, from which `scores` makes scores; the same names for every batch."""

    @abstractmethod
    def scores(self, sums: Mapping[str, float]) -> dict[str, float]: ...

    @abstractmethod
    def baselines(self) -> dict[str, dict[str, float]]:
        """Scores of simple ways to do the same on the same held-out samples, by what they are called."""

    @abstractmethod
    def examples(self, model: LanguageModel) -> list[dict[str, Any]]:
        """What the model makes of a few held-out samples, as JSON."""

    def model(self) -> LanguageModel:
        return language_model(self.build(), self.name)

    def batches(self, rank: int, of: int) -> TextBatches[B]:
        """Whole training batches. Raises SettingsError where they cannot be shared out."""
        if self.batch % (of * self.accumulate):
            raise SettingsError(f"a batch of {self.batch} cannot be shared by {of} processes x {self.accumulate} "
                                f"micro-batches: choose a multiple of {of * self.accumulate}")
        return TextBatches(self.train, batch=self.batch, seed=self.seed, shuffle=True, rank=rank, of=of,
                           drop_last=True)

    @torch.no_grad()
    def evaluate(self, model: nn.Module, device: torch.device, rank: int, of: int) -> dict[str, float]:
        """Scores of all held-out samples, over all processes."""
        batches = TextBatches(self.held_out, batch=max(of, self.batch // self.accumulate), seed=self.seed, rank=rank,
                              of=of)
        asked, sums = language_model(model, self.name), dict.fromkeys(self.summed, 0.0)
        for batch in batches.epoch(0):
            for name, value in self.tally(asked, batch.to(device)).items():
                sums[name] += value
        return self.scores(over_processes(sums, of, device))

    def describe(self) -> dict[str, Any]:
        """The data and what is made of them, as JSON."""
        return {"task": self.name, **self.data, "smoothing": self.smoothing,
                "samples": {"train": len(self.train), "held_out": len(self.held_out)}}

    def names(self, batch: B) -> list[str]:
        """The samples of a batch as the user knows them."""
        return [self.train.key(i) for i in batch.indices.tolist()]

    def save(self, model: nn.Module, folder: Path) -> None:
        self.write(language_model(model, self.name), folder)
