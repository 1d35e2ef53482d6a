"""How sure a measured number is: Wilson's interval for proportions, the bootstrap for everything else."""
from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from vitrail.core.errors import DataError
from vitrail.core.score import Score

CHUNK = 2_000_000                               # samples resampled at a time: bounds the memory, changes no number

Statistic = Callable[[NDArray[np.int64]], NDArray[np.float64]]


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


def student_t(values: Sequence[float], *, level: float = 0.95) -> Score:
    """The mean of a few runs with Student's interval, which takes their deviation as unknown (Student, Biometrika 6,
    1908). Raises DataError for fewer than two."""
    if len(values) < 2:
        raise DataError(f"{len(values)} runs have no deviation: run two seeds at least")
    half = stdtrit(len(values) - 1, (1 + level) / 2) * np.std(values, ddof=1) / len(values) ** 0.5
    mean = float(np.mean(values))
    return Score(mean, mean - float(half), mean + float(half))


def chunks(total: int, resamples: int) -> list[int]:
    """How many resamples of ``total`` samples to draw at a time."""
    step = max(1, CHUNK // total)
    return [min(step, resamples - done) for done in range(0, resamples, step)]


def bootstrap(statistic: Statistic, total: int, *, seed: int, resamples: int = 1000) -> NDArray[np.float64]:
    """S statistics of resamples, drawn with replacement, of ``total`` samples: (resamples, S).

    statistic: sample numbers (R, n) to values (R, S); it is called with chunks of resamples. The same seed gives the
    same numbers. Raises DataError for 0 samples.
    """
    if total <= 0:
        raise DataError("there is nothing to resample: evaluate at least one sample")
    rng = np.random.default_rng(seed)
    return np.concatenate([statistic(rng.integers(total, size=(size, total))) for size in chunks(total, resamples)])


def percentile(value: float, drawn: NDArray[np.float64], *, level: float = 0.95) -> Score:
    """The percentile interval of a statistic drawn R times (Efron and Tibshirani, 1993, chapter 13), value included."""
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Score(value, min(float(low), value), max(float(high), value))


def reverse_percentile(value: float, drawn: NDArray[np.float64], *, level: float = 0.95) -> Score:
    """The interval for a statistic that is 0 or more and that noise makes larger, as it does a calibration error.

    The error of a resample about the value stands for the value's own about the truth, so the bounds are
    2 value - q (Davison and Hinkley, 1997, section 5.2): resampling adds the noise a second time.
    """
    low, high = 2 * value - np.quantile(drawn, [(1 + level) / 2, (1 - level) / 2])
    return Score(value, max(0.0, min(float(low), value)), max(float(high), value))


def count(group: NDArray[np.int64], groups: int, weight: NDArray[Any] | None = None) -> NDArray[np.float64]:
    """Sums of weights (1 each where there are none) by group, within each row: (R, n) to (R, groups)."""
    cell = group + groups * np.arange(len(group))[:, None]
    sums = np.bincount(cell.ravel(), None if weight is None else weight.ravel(), groups * len(group))
    return sums.reshape(len(group), groups).astype(np.float64)
