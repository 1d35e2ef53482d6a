"""Translation: a sentence in, the same in another language out, written word by word."""
from collections.abc import Mapping
from typing import Any, ClassVar, final

from torch import Tensor, nn

from vitrail.tasks.language.batches import TranslationBatch
from vitrail.tasks.language.samples import PairSamples
from vitrail.tasks.language.vocabulary import END, PAD
from vitrail.tasks.language.generate import translate
from vitrail.tasks.language.decode import greedy
from vitrail.tasks.language.losses import perplexity, token_loss
from vitrail.tasks.language.model import LanguageModel
from vitrail.tasks.language.kind import Kind

SHOWN, BEAMS = 10, 4


@final
class Translation(Kind[PairSamples, TranslationBatch]):
    """Teacher forcing: each token of the translation is expected after the source and all tokens before it.

    Scores: perplexity and accuracy of the tokens under teacher forcing, and `exact`, the share of sentences that
    greedy decoding writes without a mistake.
    """

    name = "translation"
    shares: ClassVar = ("exact",)
    summed: ClassVar = ("nll", "hits", "tokens", "exact", "samples")

    def loss(self, model: nn.Module, batch: TranslationBatch, smoothing: float) -> dict[str, Tensor]:
        losses = token_loss(model(batch.source, batch.target), batch.expected, smoothing)
        return losses.means(batch.share, len(batch))

    def tally(self, model: LanguageModel, batch: TranslationBatch) -> dict[str, float]:
        sums = token_loss(model(batch.source, batch.target), batch.expected).sums()
        right = [[n for n in row if n not in (PAD, END)] for row in batch.expected.tolist()]
        written = greedy(model, batch.source, longest=model.config.spec.length)
        return {**sums, "tokens": float((batch.expected != PAD).sum()), "samples": float(len(batch)),
                "exact": float(sum(a == b for a, b in zip(written, right, strict=True)))}

    def scores(self, sums: Mapping[str, float]) -> dict[str, float]:
        return {"perplexity": perplexity(sums["nll"], sums["tokens"]), "accuracy": sums["hits"] / sums["tokens"],
                "exact": sums["exact"] / sums["samples"], "samples": sums["samples"], "tokens": sums["tokens"]}

    def baselines(self, train: PairSamples, val: PairSamples) -> dict[str, dict[str, float]]:
        return {}

    def examples(self, model: LanguageModel, val: PairSamples, seed: int) -> list[dict[str, Any]]:
        """Sentences with their translations: the right one, the greedy one, and that of a beam search."""
        pairs = val.pairs.subset(range(min(SHOWN, len(val))))
        rows = zip(pairs.keys, pairs.sources, pairs.targets, translate(model, pairs.sources),
                    translate(model, pairs.sources, beams=BEAMS), strict=True)
        return [dict(zip(("key", "source", "target", "greedy", "beam"), row, strict=True)) for row in rows]
