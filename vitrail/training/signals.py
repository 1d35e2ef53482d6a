"""SIGTERM and Ctrl-C: the step is finished, the run is saved, and it can go on later."""
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from vitrail.core.errors import TrainingError

_PATIENCE = 1.0         # seconds in which a repeated signal is the launcher's echo of the first, not a wish of its own


class Stopped(TrainingError):
    """A run that was told to stop by SIGTERM, and saved itself first."""

    exit_code = 128 + signal.SIGTERM


class Interrupted(Stopped):
    """A run that was stopped by Ctrl-C, and saved itself first."""

    exit_code = 128 + signal.SIGINT


class Flag:
    """`number` of the first signal, 0 before. A second one, a second later or more, ends the process at once."""

    def __init__(self) -> None:
        self.number = 0
        self._since = 0.0

    def error(self, where: str) -> Stopped:
        """What to raise once the run is saved. Another process may have had the signal: then it counts as SIGTERM."""
        kind = Interrupted if self.number == signal.SIGINT else Stopped
        name = signal.Signals(self.number).name if self.number else "a signal to another process"
        return kind(f"stopped by {name} {where}: the run is saved; the same command goes on from there")

    def receive(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.number and now - self._since >= _PATIENCE:
            os._exit(128 + number)
        if not self.number:
            self.number, self._since = number, now


@contextmanager
def listening() -> Iterator[Flag]:
    """Within: SIGTERM and SIGINT raise a flag instead of ending the process. Only the main thread can listen."""
    flag = Flag()
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return
    before = {s: signal.signal(s, flag.receive) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield flag
    finally:
        for s, handler in before.items():
            signal.signal(s, handler if handler is not None else signal.SIG_DFL)
