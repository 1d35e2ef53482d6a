"""How far a run is: a bar on a terminal, one plain line an interval in a pipe."""
import contextlib
import sys
import time
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class Reporter:
    """Speaks on standard error. `silent` (every process but the first) says nothing at all."""

    def __init__(self, *, total: int, silent: bool, stream: TextIO | None = None):
        self.total, self.silent = total, silent
        self.stream = stream or sys.stderr
        self._start, self._done, self._now = time.monotonic(), 0, 0
        self._bar: Progress | None = None

    def start(self, done: int) -> None:
        """From here on time is taken; `done` steps were made before."""
        self._start, self._done, self._now = time.monotonic(), done, done
        if not self.silent and self.stream.isatty():
            self._bar = Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
                                 TextColumn("{task.fields[rate]}"), TimeElapsedColumn(), TimeRemainingColumn(),
                                 console=Console(file=self.stream))
            self._task = self._bar.add_task("training", total=self.total, completed=done, rate="")
            self._bar.start()

    @property
    def rate(self) -> float:
        """Steps a second since the start."""
        return (self._now - self._done) / max(time.monotonic() - self._start, 1e-9)

    def step(self, step: int) -> None:
        self._now = step
        if self._bar is not None:
            self._bar.update(self._task, completed=step, rate=f"{self.rate:.2f} steps/s")

    def line(self, epoch: int, epochs: int, values: dict[str, float]) -> None:
        """What an interval came to."""
        words = " ".join(f"{name} {value:.4g}" for name, value in values.items())
        if self._bar is not None:
            self._bar.update(self._task, description=f"epoch {epoch}/{epochs} {words}")
        else:
            left = (self.total - self._now) / self.rate if self.rate > 0 else 0.0
            self.say(f"epoch {epoch}/{epochs} step {self._now}/{self.total} {words} {self.rate:.2f} steps/s, "
                     f"{_clock(left)} left")

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
