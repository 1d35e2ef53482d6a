"""How well a model of language does on texts: scores, and a few of its answers."""
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from vitrail.core.results import Excluded, Section, Table, Tile
from vitrail.core.score import Score
from vitrail.core.task import Options
from vitrail.measure.intervals import wilson
from vitrail.tasks.language.kind import kind_of
from vitrail.tasks.language.objective import scores_of

COUNTED = ("samples", "tokens")                             # what is not a score


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What `evaluate` found. examples: answers to a few of the samples, by what each part of them is called."""

    model: str
    kind: str
    source: str
    samples: int
    tokens: int
    scores: dict[str, Score]
    examples: list[dict[str, Any]] = field(default_factory=list)
    excluded: tuple[Excluded, ...] = ()

    @property
    def about(self) -> str:
        return (f"{self.model} ({self.kind}) on {self.source}: {self.samples:,} samples, {self.tokens:,} tokens to "
                "answer")

    def to_json(self) -> dict[str, Any]:
        return {"model": self.model, "task": self.kind, "source": self.source, "samples": self.samples,
                "tokens": self.tokens, "scores": {name: score.to_json() for name, score in self.scores.items()},
                "examples": self.examples, "excluded": [{"key": x.key, "why": x.why} for x in self.excluded]}

    def tiles(self) -> Iterator[Tile]:
        yield Tile(name="samples", value=f"{self.samples:,}", note=f"{self.tokens:,} tokens to answer")

    def sections(self, model: Any, dataset: Any) -> Iterator[Section]:
        if self.examples:
            columns = tuple(self.examples[0])
            rows = tuple(tuple(str(example[name]) for name in columns) for example in self.examples)
            yield Section(title="Answers", note="To the first of the samples.",
                          parts=(Table(columns=columns, rows=rows),))


def evaluate(model: Any, dataset: Any, options: Options | None = None) -> Evaluation:
    """Scores a model of language on every sample of a data set of its kind, once.

    Shares of samples have Wilson's interval; perplexity and accuracy, whose tokens hang together, have none.
    """
    options = options or Options()
    spec = model.config.spec
    kind = kind_of(spec.kind)
    model = model.to(options.device)
    torch.manual_seed(options.seed)
    values = scores_of(kind, model.eval(), dataset, batch=options.batch, device=options.device)
    samples = int(values["samples"])
    scores = {name: Score(value) for name, value in values.items() if name not in COUNTED}
    for name in kind.shares:
        scores[name] = wilson(round(values[name] * samples), samples)
    excluded = tuple(Excluded(skipped.key, skipped.why) for skipped in dataset.skipped)
    return Evaluation(model=model.config.model, kind=spec.kind, source=dataset.name, samples=samples,
                      tokens=int(values["tokens"]), scores=scores, excluded=excluded,
                      examples=kind.examples(model, dataset, options.seed))
