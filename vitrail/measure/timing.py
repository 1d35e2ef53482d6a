"""Times that can be compared: everything is measured in one process, turn by turn, beside a yardstick."""
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch

YARDSTICK = 1024        # the side of the square matrices whose product is the yardstick


@dataclass(frozen=True)
class Times:
    """The seconds of one thing, a number a round."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def quartiles(self) -> tuple[float, float]:
        return _middle(self.seconds)[1:]

    def over(self, other: "Times") -> tuple[float, float, float]:
        """How many times as long as `other` this takes: the median of the rounds' ratios, and its quartiles.

        Both were measured in each round, one right after the other, so that what else the machine does falls on both.
        """
        return _middle([a / b for a, b in zip(self.seconds, other.seconds, strict=True)])


def _middle(values: Sequence[float]) -> tuple[float, float, float]:
    """The median and the quartiles."""
    if len(values) < 2:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return middle, low, high


def in_turns(things: Mapping[str, Callable[[], float]], *, rounds: int, warm: int = 3) -> dict[str, Times]:
    """Calls each thing once a round, in a new order each round, so that none always follows the same other one; the
    first `warm` rounds do not count. Each thing says itself how many seconds it took."""
    names = list(things)
    found: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(-warm, rounds):
        for name in random.Random(turn).sample(names, len(names)):
            seconds = things[name]()
            if turn >= 0:
                found[name].append(seconds)
    return {name: Times(tuple(seconds)) for name, seconds in found.items()}


def interleaved(things: Mapping[str, Callable[[], object]], *, rounds: int, device: torch.device,
                warm: int = 3, gradients: bool = False) -> dict[str, Times]:
    """Times each thing in this process by `in_turns`. Without `gradients` nothing is recorded for a backward pass."""
    def seconds(thing: Callable[[], object]) -> float:
        _wait(device)
        start = time.perf_counter()
        thing()
        _wait(device)
        return time.perf_counter() - start
    with torch.inference_mode(not gradients):
        return in_turns({name: partial(seconds, thing) for name, thing in things.items()}, rounds=rounds, warm=warm)


def yardstick(device: torch.device) -> Callable[[], object]:
    """A product of two square matrices of float32, as the machine's own measure."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(YARDSTICK, YARDSTICK, generator=generator).to(device) for _ in range(2))
    return lambda: a @ b


def gflops(seconds: float) -> float:
    """1e9 multiply-adds a second that the yardstick reached."""
    return float(YARDSTICK**3 / seconds / 1e9)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
