"""Filling gaps: units that were masked from all others, and whether one segment follows another."""
import random
from collections import Counter
from collections.abc import Mapping
from typing import Any, ClassVar, final

import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.tasks.language.batches import MaskedBatch
from vitrail.tasks.language.samples import SHARE, MaskedSamples
from vitrail.tasks.language.vocabulary import MASK, PAD
from vitrail.tasks.language.generate import fill_units
from vitrail.tasks.language.losses import perplexity, token_loss
from vitrail.tasks.language.model import LanguageModel
from vitrail.tasks.language.kind import Kind

SHOWN = 5


@final
class Masked(Kind[MaskedSamples, MaskedBatch]):
    """The loss is the sum of both means (BERT, arXiv:1810.04805, appendix A.2).

    Scores: perplexity and accuracy of the units in the gaps of the held-out text, which are the same at every
    evaluation; and `next`, the accuracy about the segments.
    """

    name = "masked"
    shares: ClassVar = ("next",)
    summed: ClassVar = ("nll", "hits", "tokens", "next", "samples")

    def loss(self, model: nn.Module, batch: MaskedBatch, smoothing: float) -> dict[str, Tensor]:
        answer = model(batch.tokens, batch.segments)
        losses = token_loss(answer.tokens, batch.expected, smoothing).means(batch.share, len(batch))
        follows = F.cross_entropy(answer.next.float(), batch.next)
        return {**losses, "loss": losses["loss"] + follows, "next": follows.detach()}

    def tally(self, model: LanguageModel, batch: MaskedBatch) -> dict[str, float]:
        answer = model(batch.tokens, batch.segments)
        return {**token_loss(answer.tokens, batch.expected).sums(), "tokens": float((batch.expected != PAD).sum()),
                "next": float((answer.next.argmax(-1) == batch.next).sum()), "samples": float(len(batch))}

    def scores(self, sums: Mapping[str, float]) -> dict[str, float]:
        return {"perplexity": perplexity(sums["nll"], sums["tokens"]), "accuracy": sums["hits"] / sums["tokens"],
                "next": sums["next"] / sums["samples"], "samples": sums["samples"], "tokens": sums["tokens"]}

    def baselines(self, train: MaskedSamples, val: MaskedSamples) -> dict[str, dict[str, float]]:
        return {"commonest unit": {"accuracy": commonest_accuracy(train, val)}}

    def examples(self, model: LanguageModel, val: MaskedSamples, seed: int) -> list[dict[str, Any]]:
        """Held-out stretches with gaps, and what the model puts there."""
        examples = []
        for index in range(min(SHOWN, len(val))):
            units = val.units(index)
            gaps = set(random.Random(index).sample(range(len(units)), max(1, round(SHARE * len(units)))))
            gapped = [MASK if i in gaps else n for i, n in enumerate(units)]
            examples.append({"text": val.vocabulary.text(gapped), "filled": fill_units(model, gapped).text,
                             "truth": val.vocabulary.text(units)})
        return examples


def commonest_accuracy(train: MaskedSamples, val: MaskedSamples) -> float:
    """What answering every gap with the commonest unit of the training text reaches on the same gaps."""
    (commonest, _), = Counter(unit for piece in train.pieces for unit in piece).most_common(1)
    asked = [number for i in range(len(val)) for number in val.sample(i, 0)[2] if number != PAD]
    return asked.count(commonest) / len(asked)
