"""Processes that answer: what they say, how they end, and that none outlives who asked."""
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vitrail.core.errors import VitrailError
from vitrail.measure.workers import Refused, Worker

MODULE = "tests.measure.worker_for_tests"
ROOT = Path(__file__).parents[2]


def runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def gone(pid: int, seconds: float = 60) -> bool:
    """Whether a process that is not ours to wait for ends within so many seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and runs(pid):
        time.sleep(0.05)
    return not runs(pid)


def test_a_worker_answers_and_is_gone_afterwards() -> None:
    with Worker("one", MODULE, {"do": "answer"}) as worker:
        assert worker.started["pid"] == worker.pid != os.getpid()
        assert [worker.ask({"number": n})["twice"] for n in (1, 20)] == [2, 40]
        assert runs(worker.pid)
    assert not runs(worker.pid)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system binds no process to processors")
def test_a_worker_is_bound_to_as_many_processors_as_it_has_threads() -> None:
    allowed = sorted(os.sched_getaffinity(0))
    with Worker("one", MODULE, {"do": "answer"}) as worker:
        assert worker.started["processors"] == allowed[:1]
    assert sorted(os.sched_getaffinity(0)) == allowed


def test_what_it_cannot_do_is_told_with_its_reason() -> None:
    with pytest.raises(Refused, match="^it has no such model$"):
        Worker("one", MODULE, {"do": "refuse"})
    with Worker("one", MODULE, {"do": "answer"}) as worker:
        with pytest.raises(Refused, match="KeyError: 'number'"):
            worker.ask({})
        assert not runs(worker.pid)


def test_a_worker_that_dies_is_an_error_that_says_how() -> None:
    with pytest.raises(VitrailError, match="^first: its process ended with code 3: and complains of$"):
        Worker("first", MODULE, {"do": "exit"})
    with Worker("second", MODULE, {"do": "answer"}) as worker:
        with pytest.raises(VitrailError, match="second: its process was ended by SIGKILL.*run out of memory"):
            worker.ask({"do": "die"})
        assert not runs(worker.pid)


def test_an_error_beside_it_ends_it() -> None:
    with pytest.raises(KeyboardInterrupt), Worker("one", MODULE, {"do": "answer"}) as worker:
        raise KeyboardInterrupt
    assert not runs(worker.pid)


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("do", ["answer", "sleep"])
def test_it_ends_when_who_started_it_is_killed(do: str) -> None:
    code = ("import subprocess, sys, time\n"
            "from vitrail.measure import workers\n"
            "begin = subprocess.Popen\n"
            "def told(*a, **k):\n"
            "    found = begin(*a, **k)\n"
            "    print(found.pid, flush=True)\n"
            "    return found\n"
            "subprocess.Popen = told\n"
            f"workers.Worker('one', {MODULE!r}, {{'do': {do!r}}})\n"
            "print('started', flush=True)\n"
            "time.sleep(600)\n")
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        if do == "answer":
            assert parent.stdout.readline() == "started\n"
        else:
            time.sleep(3)                       # it is at work by now, or still starting: it must end either way
        assert runs(pid)
        parent.send_signal(signal.SIGKILL)
    assert gone(pid)
