"""Is the model as sure as it is right? Confidence is the probability of the answer given."""
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vitrail.core.score import Score
from vitrail.measure.intervals import chunks, count, reverse_percentile

BINS = 15

Floats = NDArray[np.float64]
Hits = NDArray[np.bool_]


def bins(confidence: Floats) -> NDArray[np.int64]:
    """The bin of each confidence in [0, 1]: bin b of 15 is (b / 15, (b + 1) / 15], and the first one holds 0."""
    return np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)


def error(confidence: Floats, hit: Hits) -> Floats:
    """Expected calibration error over 15 bins of equal width (Guo et al., arXiv:1706.04599, equation 3).

    The gap between mean confidence and accuracy within a bin, weighted by its samples: (R, n) and (R, n) to (R,).
    """
    return np.abs(count(bins(confidence), BINS, hit - confidence)).sum(1) / confidence.shape[1]


def interval(value: float, drawn: Floats, confidence: Floats, *, seed: int, resamples: int = 1000) -> Score:
    """The 95 % interval of a calibration error, from its values drawn with replacement (R,) and confidences (n,).

    Noise alone gives every finite sample an error above 0. So the interval is the reverse percentile one, and it
    reaches down to 0 where a perfectly calibrated model with these confidences would show as much in 1 of 20 samples
    (consistency resampling: Broecker and Smith, Weather and Forecasting 22, 2007).
    """
    rng, rows = np.random.default_rng(seed), confidence[None]
    sizes = chunks(len(confidence), resamples)
    noise = [error(np.broadcast_to(rows, (r, len(confidence))), rng.random((r, len(confidence))) < rows) for r in sizes]
    score = reverse_percentile(value, drawn)
    return Score(value, 0.0, score.high) if value <= np.quantile(np.concatenate(noise), 0.95) else score


@dataclass(frozen=True, kw_only=True)
class Bin:
    """One bar of a reliability diagram: confidences in (low, high]; None where the bin is empty."""

    low: float
    high: float
    samples: int
    confidence: float | None
    accuracy: float | None


def reliability(confidence: Floats, hit: Hits) -> tuple[Bin, ...]:
    """Mean confidence and accuracy by bin, of confidences (n,) and hits (n,)."""
    where, rows = bins(confidence), []
    for b in range(BINS):
        inside = where == b
        some = bool(inside.any())
        rows.append(Bin(low=b / BINS, high=(b + 1) / BINS, samples=int(inside.sum()),
                        confidence=float(confidence[inside].mean()) if some else None,
                        accuracy=float(hit[inside].mean()) if some else None))
    return tuple(rows)
