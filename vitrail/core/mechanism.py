"""What a way to mix tokens, or to tell their places, declares of itself: data only, no networks."""
import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


class Takes(enum.Enum):
    """The layout that a mechanism reads and returns."""

    TOKENS = "(B, N, C)"
    MAP = "(B, H, W, C)"


@dataclass(frozen=True)
class Order:
    """How a cost grows with the number of tokens N: as the paper writes it, and the exponent to look for."""

    text: str
    exponent: float

    def __str__(self) -> str:
        return self.text


LINEAR, LOG_LINEAR, THREE_HALVES, QUADRATIC = (
    Order("N", 1.0), Order("N log N", 1.0), Order("N^1.5", 1.5), Order("N^2", 2.0))


@dataclass(frozen=True, kw_only=True)
class Mechanism:
    """A way for tokens to learn of each other.

    build:  the final class.
    mixer:  builds it as the token mixer of a block from (dim, heads, grid), or the reason why it cannot be one.
            `grid` (height, width) is the one it is born for; a mechanism without sizes of its own ignores it.
    takes:  the layout of its input, which is that of its output.
    time, memory: how the paper says they grow with N; `where` it says so.
    shows:  what `vitrail.record` sees of it, or why there is nothing to see.
    """

    build: Callable[..., Any]
    mixer: Callable[[int, int, tuple[int, int]], Any] | str
    takes: Takes
    time: Order
    memory: Order
    where: str = ""
    shows: str


@dataclass(frozen=True, kw_only=True)
class Position:
    """A way to tell tokens where they are.

    build:  the class or function. enters: what the code acts on, such as "added to the tokens".
    fits:   what happens at another size than the one it was born for. learned: whether it holds parameters.
    lesson: for the codes that failed, what goes wrong with them.
    """

    build: Callable[..., Any]
    enters: str
    fits: str
    learned: bool
    lesson: str = ""
