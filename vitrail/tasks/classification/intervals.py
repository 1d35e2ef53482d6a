"""How sure a measured number is: Wilson's interval for proportions, the bootstrap for everything else."""
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from vitrail.core.errors import DataError

CHUNK = 2_000_000                               # samples resampled at a time: bounds the memory, changes no number

Statistic = Callable[[NDArray[np.int64]], NDArray[np.float64]]


@dataclass(frozen=True)
class Score:
    """A measured number with its interval (95 % unless another level was asked for)."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.4f} ({self.low:.4f} to {self.high:.4f})"


def wilson(successes: int, total: int, *, level: float = 0.95) -> Score:
    """A proportion with Wilson's score interval (Wilson, JASA 22, 1927), without continuity correction.

    It stays inside [0, 1] and is not empty at 0 or at all. Raises DataError where there is nothing to count.
    """
    if not 0 <= successes <= total or total == 0:
        raise DataError(f"{successes} of {total} samples is not a proportion: evaluate at least one sample")
    z2 = NormalDist().inv_cdf((1 + level) / 2) ** 2
    share = successes / total
    centre = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = (z2 * (share * (1 - share) + z2 / (4 * total)) / total) ** 0.5 / (1 + z2 / total)
    low = 0.0 if successes == 0 else min(centre - half, share)
    high = 1.0 if successes == total else max(centre + half, share)
    return Score(share, low, high)


def bootstrap(statistic: Statistic, total: int, *, seed: int, resamples: int = 1000,
              level: float = 0.95) -> list[Score]:
    """Each of S statistics of ``total`` samples with its percentile interval (Efron and Tibshirani, 1993, chapter 13).

    statistic: indices (R, n) of R resamples to values (R, S); it is called with chunks of resamples. An interval
    always holds its value: a statistic that resampling biases, as it does calibration errors, would else leave it.
    The same seed gives the same numbers. Raises DataError for 0 samples.
    """
    if total <= 0:
        raise DataError("there is nothing to resample: evaluate at least one sample")
    value = statistic(np.arange(total)[None])[0]
    rng = np.random.default_rng(seed)
    step = max(1, CHUNK // total)
    sizes = [min(step, resamples - done) for done in range(0, resamples, step)]
    drawn = np.concatenate([statistic(rng.integers(total, size=(size, total))) for size in sizes])
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return [Score(float(v), float(min(a, v)), float(max(b, v))) for v, a, b in zip(value, low, high, strict=True)]
