"""A measured number with its interval, and what a metric is called."""
import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Score:
    """A measured number. low, high: its 95 % interval (unless another level was asked for); nan where it has none."""

    value: float
    low: float = math.nan
    high: float = math.nan

    @property
    def has_interval(self) -> bool:
        return not math.isnan(self.low)

    def __str__(self) -> str:
        if not self.has_interval:
            return f"{self.value:.4f}"
        return f"{self.value:.4f} ({self.low:.4f} to {self.high:.4f})"

    def to_json(self) -> dict[str, Any]:
        if not self.has_interval:
            return {"value": self.value}
        return {"value": self.value, "low": self.low, "high": self.high}


@dataclass(frozen=True, kw_only=True)
class Metric:
    """What a score is called, how it is printed, and which way is better.

    share: whether it lies in [0, 1] and is printed in per cent. digits: behind the point, of what is printed.
    """

    label: str
    share: bool = False
    larger_is_better: bool = True
    digits: int = 4

    @property
    def unit(self) -> str:
        return " %" if self.share else ""

    def number(self, value: float) -> str:
        """A value without its unit: `98.05` for a share of 0.9805."""
        return f"{100 * value:.2f}" if self.share else f"{value:.{self.digits}f}"

    def value(self, score: Score) -> str:
        """`98.05 %`"""
        return f"{self.number(score.value)}{self.unit}"

    def interval(self, score: Score) -> str:
        """`96.03 to 99.06`; empty where there is no interval."""
        if not score.has_interval:
            return ""
        return f"{self.number(score.low)} to {self.number(score.high)}"
