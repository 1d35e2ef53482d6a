"""Going on with a text: each unit from those before it."""
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, final

import numpy as np
from torch import Tensor, nn

from vitrail.tasks.language.batches import CausalBatch
from vitrail.tasks.language.samples import CausalSamples
from vitrail.tasks.language.vocabulary import PAD
from vitrail.tasks.language.generate import go_on
from vitrail.tasks.language.losses import perplexity, token_loss
from vitrail.tasks.language.model import LanguageModel
from vitrail.tasks.language.kind import Kind

ADDED = (1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0)         # counts that a bigram model may add
SHOWN = 3


@final
class Causal(Kind[CausalSamples, CausalBatch]):
    """Scores: perplexity and accuracy of the units of the held-out text, each counted once."""

    name = "causal"
    summed: ClassVar = ("nll", "hits", "tokens", "samples")

    def loss(self, model: nn.Module, batch: CausalBatch, smoothing: float) -> dict[str, Tensor]:
        return token_loss(model(batch.tokens), batch.expected, smoothing).means(batch.share, len(batch))

    def tally(self, model: LanguageModel, batch: CausalBatch) -> dict[str, float]:
        sums = token_loss(model(batch.tokens), batch.expected).sums()
        return {**sums, "tokens": float((batch.expected != PAD).sum()), "samples": float(len(batch))}

    def scores(self, sums: Mapping[str, float]) -> dict[str, float]:
        return {"perplexity": perplexity(sums["nll"], sums["tokens"]), "accuracy": sums["hits"] / sums["tokens"],
                "samples": sums["samples"], "tokens": sums["tokens"]}

    def baselines(self, train: CausalSamples, val: CausalSamples) -> dict[str, dict[str, float]]:
        size = len(train.vocabulary)
        return {"bigram": {"perplexity": bigram_perplexity(train.pieces, val.pieces, size)}}

    def examples(self, model: LanguageModel, val: CausalSamples, seed: int) -> list[dict[str, Any]]:
        """Where the held-out text begins, and how the model goes on with it."""
        examples = []
        for index in range(min(SHOWN, len(val))):
            units = val.units(index)
            prompt = val.vocabulary.text(units[:max(1, len(units) // 2)])
            examples.append({"prompt": prompt, "continued": go_on(model, prompt, seed=seed)[0]})
        return examples


def bigram_perplexity(train: Sequence[Sequence[int]], val: Sequence[Sequence[int]], size: int) -> float:
    """What a table of pairs of neighbours reaches on the same text: the share of each unit after each, with a count
    added to all, the one of `ADDED` that suits the held-out text best, which flatters the table."""
    counts, asked = np.zeros((size, size)), np.zeros((size, size))
    for texts, table in ((train, counts), (val, asked)):
        for text in texts:
            np.add.at(table, (list(text[:-1]), list(text[1:])), 1)
    return min(perplexity(float(-(asked * np.log((counts + add) / (counts + add).sum(1, keepdims=True))).sum()),
                          float(asked.sum())) for add in ADDED)
