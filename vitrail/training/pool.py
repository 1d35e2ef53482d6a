"""Trainings in processes of their own, which end with the process that asked for them."""
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from threading import Thread
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")
GRACE = 20.0            # seconds for a training to save itself


@contextmanager
def pooled(work: Callable[[T], R], todo: Sequence[T], jobs: int) -> Iterator[Iterator[R]]:
    """What `work` answers for each, in order; `jobs` at a time, in processes of their own where it is more than 1."""
    if jobs == 1:
        yield map(work, todo)
        return
    with ProcessPoolExecutor(min(jobs, len(todo)), mp_context=get_context("spawn"), initializer=_follow) as pool:
        try:
            yield pool.map(work, todo)
        except BaseException:
            pool.shutdown(cancel_futures=True)          # those that run save themselves; none is begun
            raise


def _follow() -> None:
    """In a process of a training's own: ends it when the one that asked for it has gone, however that came about.

    SIGTERM first, at which the training saves itself; a checkpoint takes seconds.
    """
    asking = parent_process()
    assert asking is not None

    def watch() -> None:
        wait([asking.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(GRACE)
        os._exit(1)
    Thread(target=watch, daemon=True).start()
