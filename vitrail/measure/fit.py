"""How a cost grows: the exponent of a power law through measurements, with its interval."""
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

DRAWS = 2000


@dataclass(frozen=True)
class Growth:
    """cost = factor * size ** exponent; `low` and `high` bound the exponent in 95 of 100 repetitions."""

    exponent: float
    low: float
    high: float
    factor: float

    def __str__(self) -> str:
        return f"{self.exponent:.2f} ({self.low:.2f} to {self.high:.2f})"


def growth(sizes: Sequence[float], costs: Sequence[Sequence[float]], *, seed: int = 0) -> Growth:
    """The least-squares line through log(median cost) over log(size).

    costs: for each size its repetitions. The interval is the percentile bootstrap's: the repetitions of every size are
    drawn anew, with replacement, 2,000 times. Of a single repetition, as of an exact count, it is the exponent itself.
    """
    x = np.log(np.asarray(sizes, dtype=float))
    if len(x) < 2 or len(x) != len(costs) or any(not len(c) or min(c) <= 0 for c in costs):
        raise ValueError("an exponent needs costs above 0 at two sizes at least")

    def line(y: NDArray[np.float64]) -> NDArray[np.float64]:
        """Slope and intercept of each column of y, (2, columns)."""
        across = x - x.mean()
        slope = across @ y / (across @ across)
        return np.stack([slope, y.mean(0) - slope * x.mean()])

    slope, intercept = line(np.log([[np.median(c)] for c in costs]))[:, 0]
    draw = np.random.default_rng(seed)
    again = np.stack([np.median(draw.choice(np.asarray(c), (DRAWS, len(c))), 1) for c in costs])
    low, high = np.quantile(line(np.log(again))[0], [0.025, 0.975])
    return Growth(float(slope), float(low), float(high), float(np.exp(intercept)))
