"""How far a run is: a bar on a terminal; in a pipe a line now and then, and one for each evaluation."""
import contextlib
import sys
import time
from collections.abc import Callable
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

INTERVAL = 10.0         # seconds between two plain lines of the same kind


class Reporter:
    """Speaks on standard error. `silent` (every process but the first) says nothing at all."""

    def __init__(self, *, total: int, silent: bool, stream: TextIO | None = None,
                 clock: Callable[[], float] = time.monotonic):
        self.total, self.silent = total, silent
        self.stream, self.clock = stream or sys.stderr, clock
        self._start, self._done, self._now = clock(), 0, 0
        self._said = -INTERVAL
        self._losses = ""
        self._bar: Progress | None = None

    def start(self, done: int) -> None:
        """From here on time is taken; `done` steps were made before."""
        self._start, self._done, self._now = self.clock(), done, done
        self._said = self._start - INTERVAL             # the first line comes as soon as there is something to say
        if not self.silent and self.stream.isatty():
            self._bar = Progress(TextColumn("{task.description}"), BarColumn(bar_width=None), MofNCompleteColumn(),
                                 TextColumn("{task.fields[rate]}"), TimeElapsedColumn(), TimeRemainingColumn(),
                                 console=Console(file=self.stream))
            self._task = self._bar.add_task("training", total=self.total, completed=done, rate="")
            self._bar.start()

    @property
    def rate(self) -> float:
        """Steps a second since the start."""
        return (self._now - self._done) / max(self.clock() - self._start, 1e-9)

    def step(self, step: int) -> None:
        self._now = step
        if self._bar is not None:
            self._bar.update(self._task, completed=step, rate=f"{self.rate:.2f} steps/s")

    def line(self, epoch: int, epochs: int, values: dict[str, float]) -> None:
        """What a few steps came to. A value that only repeats the loss is left out."""
        told = {n: v for n, v in values.items() if n == "loss" or v != values.get("loss")}
        self._losses = ", ".join(f"{name} {value:.4g}" for name, value in told.items())
        if self._bar is not None:
            loss = f" loss {values['loss']:.4g}" if "loss" in values else ""
            self._bar.update(self._task, description=f"epoch {epoch}/{epochs}{loss}")
        elif self.clock() - self._said >= INTERVAL:
            self._say_line(epoch, epochs, self._losses)

    def score(self, epoch: int, epochs: int, name: str, value: float, best: tuple[float, int] | None) -> None:
        """The score of an evaluation. best: the best one so far and its step; this one where the step is the last."""
        beside = f" (best {best[0]:.4g} at step {best[1]})" if best and best[1] != self._now else " (best yet)"
        told = f"{name} {value:.4g}{beside if best else ''}"
        if self._bar is not None:
            self.say(f"epoch {epoch}/{epochs}: {told}")
        else:
            self._say_line(epoch, epochs, f"{self._losses}; {told}" if self._losses else told)

    def _say_line(self, epoch: int, epochs: int, words: str) -> None:
        self._said, self._losses = self.clock(), ""
        left = f"; {self.rate:.2f} steps/s, {_clock((self.total - self._now) / self.rate)} left" if self.rate else ""
        self.say(f"epoch {epoch}/{epochs}, step {self._now}/{self.total}: {words}{left}")

    def say(self, text: str) -> None:
        """A line that stays."""
        if self.silent:
            return
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False)
        else:
            with contextlib.suppress(OSError, ValueError):      # nobody reads on: no reason to stop training
                print(text, file=self.stream, flush=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()


def _clock(seconds: float) -> str:
    minutes, s = divmod(int(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02d}:{s:02d}" if hours else f"{m}:{s:02d}"
