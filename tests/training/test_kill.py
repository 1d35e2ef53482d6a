"""SIGKILL at any instant loses at most what was not saved, and never the result."""
import itertools
import random
import signal
import time
from pathlib import Path

import pytest

from tests.training.children import bits, end, said, start, train

KILLS = 20
TOY = {"norm": True}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "run"
    train(out, TOY, save_every=1)
    return out


def test_twenty_kills_at_random_instants(whole: Path, tmp_path: Path) -> None:
    assert end(start(tmp_path / "first", TOY, save_every=1)) == 0       # starts the process they fork from, too
    began = time.monotonic()
    assert end(start(tmp_path / "timed", TOY, save_every=1)) == 0
    lasts = time.monotonic() - began
    dice = random.Random(20)
    kills = 0
    for number in itertools.count():
        out = tmp_path / f"run-{number}"
        while True:
            child = start(out, TOY, save_every=1)
            child.join(dice.uniform(0, lasts) if kills < KILLS else None)
            if child.exitcode is None:
                child.kill()
            code = end(child)
            if code == 0:
                break
            assert code == -signal.SIGKILL, said(out)
            kills += 1
        assert bits(out) == bits(whole)
        assert not list(out.glob("checkpoints/damaged-*")), "a kill alone must not damage a checkpoint"
        if kills >= KILLS:
            break


def test_a_kill_at_every_call_of_the_disk(tmp_path: Path) -> None:
    """Each call of a run's birth, of its saves and of its end is once the last thing that the process does."""
    whole, counted = tmp_path / "whole", tmp_path / "counted"
    few = {"epochs": 2, "batch": 22, "save_every": 0, "keep": 1, "log_every": 5}
    train(whole, TOY, **few)
    assert end(start(counted, TOY, die=10**9, **few)) == 0
    total = int(said(counted).rpartition("calls ")[2])
    assert total > 80
    for number in range(1, total + 1):
        out = tmp_path / f"run-{number}"
        assert end(start(out, TOY, die=number, **few)) == -signal.SIGKILL
        train(out, TOY, **few)
        assert bits(out) == bits(whole), f"after a kill at call {number}"
        assert not [p for p in out.rglob("*") if p.name.startswith((".saving", ".dropping", "damaged"))]
