"""SIGTERM and Ctrl-C leave a run that goes on to the same end."""
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.training.children import bits, end, said, start, together, train


def wait_for(path: Path, lines: int) -> None:
    """Until a log has that many lines."""
    deadline = time.monotonic() + 60
    while not path.exists() or len(path.read_bytes().splitlines()) < lines:
        assert time.monotonic() < deadline, "the training did not get there"
        time.sleep(0.002)


@pytest.mark.parametrize(("number", "code", "kind"), [(signal.SIGTERM, 143, "Stopped"),
                                                      (signal.SIGINT, 130, "Interrupted")])
def test_a_signal_saves_and_the_run_goes_on(tmp_path: Path, number: int, code: int, kind: str) -> None:
    far: dict[str, Any] = {"epochs": 25, "save_every": 10**6, "evaluate_every": 99}     # only a signal saves
    train(tmp_path / "whole", **far)
    out, stops = tmp_path / "run", 0
    for lines in (4, 20, 40):
        child = start(out, **far)
        wait_for(out / "metrics.jsonl", lines)
        assert child.pid is not None
        os.kill(child.pid, number)
        stopped = end(child)
        if stopped == 0:                                # it was faster than the signal
            break
        assert stopped == code
        assert f"{kind}: stopped by {signal.Signals(number).name} at step" in said(out)
        stops += 1
    assert stops
    train(out, **far)
    ours, theirs = bits(out), bits(tmp_path / "whole")
    assert ours == theirs
    starts = [s["from_step"] for s in json.loads((out / "run.json").read_text())["sessions"]]
    assert len(starts) == stops + 1 and starts == sorted(starts) and starts[-1] > 0


def test_a_signal_during_a_long_evaluation_does_not_wait_for_its_end(tmp_path: Path) -> None:
    out = tmp_path / "run"
    child = start(out, {"nap": 300.0}, log_every=1)
    wait_for(out / "metrics.jsonl", 5)                  # the first epoch is over: it evaluates
    time.sleep(0.1)
    assert child.pid is not None
    os.kill(child.pid, signal.SIGTERM)
    assert end(child, 60) == 143
    train(out, log_every=1)                             # the evaluation that was cut short is made up for
    train(tmp_path / "whole", log_every=1)
    assert bits(out) == bits(tmp_path / "whole")


def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    out = tmp_path / "run"
    child = start(out, {"deaf": 300.0}, log_every=1)
    wait_for(out / "metrics.jsonl", 5)
    assert child.pid is not None
    os.kill(child.pid, signal.SIGTERM)
    time.sleep(0.2)
    os.kill(child.pid, signal.SIGTERM)                  # a launcher's echo of the first
    time.sleep(1.2)
    assert child.is_alive()
    os.kill(child.pid, signal.SIGINT)
    assert end(child, 60) == 130


def test_two_processes_agree_to_stop(tmp_path: Path) -> None:
    """Only one of them has the signal; both save the same step and leave."""
    out = tmp_path / "run"
    assert together(out, 2, {"selfterm": 7}, save_every=10**6, evaluate_every=9) == [143, 143]
    assert [p.name for p in (out / "checkpoints").glob("step-*")] == ["step-00000008"]
    assert "Stopped: stopped by SIGTERM at step 8" in said(out, 1)
    assert "Stopped: stopped by a signal to another process at step 8" in said(out, 0)
