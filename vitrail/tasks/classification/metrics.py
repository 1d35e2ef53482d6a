"""What a classifier got right, wrong, and was too sure of: one row a sample, then every number from the rows."""
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitrail.core.errors import DataError, ModelError
from vitrail.core.seeds import derive_seed
from vitrail.tasks.classification import calibration
from vitrail.core.score import Score
from vitrail.measure.intervals import bootstrap, count, percentile, wilson

TOP = 5

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def ranked(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The classes of each row, best first and equals by number, and their log-probabilities by class.

    Logits (B, K) to (B, K) and (B, K) in float64 on the CPU. Raises ModelError for logits that are not finite.
    """
    logits = logits.detach().cpu().double()
    if not logits.isfinite().all():
        raise ModelError("the model answers with numbers that are not finite: its weights are damaged, "
                         "or its training diverged")
    return logits.argsort(stable=True, dim=-1, descending=True), logits.log_softmax(-1)


@dataclass(frozen=True, kw_only=True)
class Outcomes:
    """One row a sample: n rows, k = min(5, classes). Probabilities are softmax values."""

    classes: int
    index: Ints                 # (n,) the sample's place in its source
    label: Ints                 # (n,)
    rank: Ints                  # (n,) how many classes were preferred to the right one: 0 is a hit
    nll: Floats                 # (n,) -log of the right class's probability, in nats
    brier: Floats               # (n,) sum over classes of (probability - truth)^2, in [0, 2]
    top: Ints                   # (n, k) the preferred classes, best first; equals go to the lower class
    top_probability: Floats     # (n, k)

    @classmethod
    def of(cls, logits: Tensor, labels: Tensor, index: Tensor) -> "Outcomes":
        """From logits (B, K), labels (B,) in [0, K) and indices (B,).

        Raises ModelError for logits that are not finite, DataError for a label that is not a class.
        """
        labels = labels.cpu().long()
        classes = logits.shape[-1]
        strangers = labels[(labels < 0) | (labels >= classes)]
        if len(strangers):
            raise DataError(f"the label {int(strangers[0])} is none of the model's {classes} classes: evaluate on the "
                            "classes that the model was built with")
        order, log_p = ranked(logits)
        p, right = log_p.exp(), labels[:, None]
        p_right = p.gather(1, right)[:, 0]
        top = order[:, :min(TOP, classes)]
        return cls(classes=classes, index=index.cpu().long().numpy(), label=labels.numpy(),
                   rank=(order == right).int().argmax(-1).long().numpy(),
                   nll=-log_p.gather(1, right)[:, 0].numpy(),
                   brier=(p.square().sum(-1) - 2 * p_right + 1).clamp(min=0).numpy(),
                   top=top.numpy(), top_probability=p.gather(1, top).numpy())

    @classmethod
    def empty(cls, classes: int) -> "Outcomes":
        none = torch.zeros(0, dtype=torch.long)
        return cls.of(torch.zeros(0, classes), none, none)

    @classmethod
    def join(cls, parts: Sequence["Outcomes"]) -> "Outcomes":
        """All rows in the order of their indices, however they were shared out. ``parts`` holds one at least."""
        order = np.argsort(np.concatenate([p.index for p in parts]), kind="stable")
        columns = {f.name: np.concatenate([getattr(p, f.name) for p in parts])[order]
                   for f in fields(cls) if f.name != "classes"}
        return cls(classes=parts[0].classes, **columns)

    def __len__(self) -> int:
        return len(self.label)

    @property
    def predicted(self) -> Ints:
        return self.top[:, 0]

    @property
    def confidence(self) -> Floats:
        return self.top_probability[:, 0]

    @property
    def confusion(self) -> Ints:
        """Counts (K, K): rows are the truth, columns the answers."""
        cells = np.bincount(self.label * self.classes + self.predicted, minlength=self.classes ** 2)
        return cells.reshape(self.classes, self.classes)


def summary(seen: Outcomes) -> dict[str, float]:
    """Every score as a plain number; the names are those of ``intervals``. Raises DataError for 0 samples."""
    _some(seen)
    values = _resampled(seen, np.arange(len(seen))[None])[0]
    return _proportions(seen) | dict(zip(RESAMPLED, values.tolist(), strict=True))


def intervals(seen: Outcomes, *, seed: int = 0, resamples: int = 1000) -> dict[str, Score]:
    """Every score with its 95 % interval: Wilson's for top1 and top5, the seeded bootstrap for the others.

    top5 is there for 6 classes and more. balanced: mean recall of the classes that occur. f1: mean over the classes
    that occur or were answered. ece: calibration.error over 15 bins. brier: in [0, 2]. nll: in nats.
    Raises DataError for 0 samples.
    """
    values = summary(seen)
    drawn = bootstrap(lambda rows: _resampled(seen, rows), len(seen), seed=derive_seed(seed, "bootstrap"),
                      resamples=resamples)
    scores = {name: wilson(round(values[name] * len(seen)), len(seen)) for name in values if name not in RESAMPLED}
    scores |= {name: percentile(values[name], drawn[:, i]) for i, name in enumerate(RESAMPLED)}
    scores["ece"] = calibration.interval(values["ece"], drawn[:, RESAMPLED.index("ece")], seen.confidence,
                                         seed=derive_seed(seed, "calibrated"), resamples=resamples)
    return scores


RESAMPLED = ("balanced", "f1", "ece", "brier", "nll")


def _some(seen: Outcomes) -> None:
    if not len(seen):
        raise DataError("there is no sample to evaluate: the source is empty, or every image in it was skipped")


def _proportions(seen: Outcomes) -> dict[str, float]:
    kept = {"top1": 1} | ({"top5": TOP} if seen.classes > TOP else {})
    return {name: float((seen.rank < k).mean()) for name, k in kept.items()}


def _resampled(seen: Outcomes, rows: Ints) -> Floats:
    """The scores of RESAMPLED for each row of sample numbers: (R, n) to (R, 5)."""
    label, hit = seen.label[rows], (seen.rank == 0)[rows]
    support, answered = count(label, seen.classes), count(seen.predicted[rows], seen.classes)
    right = count(label, seen.classes, hit)
    ece = calibration.error(seen.confidence[rows], hit)
    return np.stack([_mean(right, support), _mean(2 * right, support + answered), ece,
                     seen.brier[rows].mean(1), seen.nll[rows].mean(1)], 1)


def _mean(part: Floats, whole: Floats) -> Floats:
    """The mean of part / whole over the places of each row where there is a whole: (R, G) to (R,)."""
    share = np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)
    return share.sum(1) / (whole > 0).sum(1)


@dataclass(frozen=True, kw_only=True)
class ClassScore:
    """One class: None where a number has no meaning (recall of a class that does not occur, and the like)."""

    name: str
    support: int
    precision: Score | None
    recall: Score | None
    f1: float | None


def per_class(confusion: Ints, names: Sequence[str]) -> tuple[ClassScore, ...]:
    """Precision and recall with Wilson's intervals, and F1, from counts (K, K) with the truth in rows."""
    right, support, answered = np.diag(confusion), confusion.sum(1), confusion.sum(0)
    return tuple(
        ClassScore(name=name, support=int(s), precision=wilson(int(r), int(a)) if a else None,
                   recall=wilson(int(r), int(s)) if s else None, f1=float(2 * r / (s + a)) if s + a else None)
        for name, r, s, a in zip(names, right, support, answered, strict=True))
