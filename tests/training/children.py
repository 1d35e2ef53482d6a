"""Trainings in processes of their own, forked from one that has torch imported: they may be killed."""
import hashlib
import json
import multiprocessing
import multiprocessing.util
import os
import signal
import socket
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from tests.training.toys import Toy
from vitrail.core.errors import VitrailError
from vitrail.training import facts, sharded
from vitrail.training.loop import fit
from vitrail.training.run import Run
from vitrail.training.settings import TrainSettings

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["tests.training.children", "torch._dynamo", "torch.distributed.checkpoint"])
_DISK = ("open", "write", "fsync", "rename", "replace", "mkdir", "unlink", "rmdir")


def settings(out: Path, **changes: Any) -> TrainSettings:
    """Three epochs of five steps, everything that has a state switched on."""
    usual: dict[str, Any] = {"epochs": 3, "batch": 8, "lr": 3e-3, "ema": 0.9, "accumulate": 2, "layer_decay": 0.8,
                             "log_every": 2, "save_every": 2, "device": "cpu", "threads": 1}
    return TrainSettings(out=str(out), **{**usual, **changes})


def train(out: Path, toy: dict[str, Any] | None = None, **changes: Any) -> None:
    """A training in this process."""
    chosen = settings(out, **changes)
    with Run.open(chosen) as run:
        fit(Toy(batch=chosen.batch, seed=chosen.seed, **(toy or {})), chosen, run)


def start(out: Path, toy: dict[str, Any] | None = None, *, die: int = 0, rank: int = 0, of: int = 1, port: int = 0,
          quota: int = 0, **changes: Any) -> BaseProcess:
    """A training in a process of its own; what it says goes into <out>.said-<rank>.

    die: SIGKILL before that call of the disk, counted from 1. quota: files can have that many bytes at most.
    """
    child = _FORKS.Process(target=_work, args=(out, toy, changes, die, quota, (rank, of, port)))
    child.start()
    return child


def together(out: Path, of: int, toy: dict[str, Any] | None = None, **changes: Any) -> list[int | None]:
    """A training by several processes, as torchrun would start them: their exit codes."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    children = [start(out, toy, rank=r, of=of, port=port, **changes) for r in range(of)]
    return [end(c) for c in children]


def end(child: BaseProcess, seconds: float = 120) -> int | None:
    child.join(seconds)
    if child.exitcode is None:
        child.kill()
        child.join()
        raise AssertionError("the training did not end")
    return child.exitcode


def said(out: Path, rank: int = 0) -> str:
    return out.with_name(f"{out.name}.said-{rank}").read_text()


def bits(out: Path) -> dict[str, Any]:
    """All that must be the same however often a run was stopped: tensors, state, scores, log, finished model."""
    newest = max((out / "checkpoints").glob("step-*"))
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return {"step": newest.name, "tensors": hashes(newest), "state": json.loads((newest / "state.json").read_text()),
            "model": hashlib.sha256((out / "model" / "model.safetensors").read_bytes()).hexdigest(),
            "best": json.loads((out / "checkpoints" / "best.json").read_text()),
            "log": [{k: v for k, v in line.items() if k not in ("rate", "seconds")} for line in lines]}


def hashes(checkpoint: Path) -> dict[str, str]:
    """sha256 of the bits of each tensor, put together where it was sharded."""
    if (checkpoint / "model.safetensors").exists():
        groups = {p.stem: load_file(p) for p in checkpoint.glob("*.safetensors")}
    else:
        listed = sharded.listed(checkpoint)
        groups = {g: {n: torch.zeros(s, dtype=d) for n, (s, d) in found.items()} for g, found in listed.items()}
        sharded.read(checkpoint, groups, alone=True)
    return {f"{group}.{name}": hashlib.sha256(t.numpy().tobytes()).hexdigest()
            for group, tensors in groups.items() for name, t in tensors.items()}


def _work(out: Path, toy: dict[str, Any] | None, changes: dict[str, Any], die: int, quota: int,
          place: tuple[int, int, int]) -> None:
    rank, of, port = place
    sys.stderr = out.with_name(f"{out.name}.said-{rank}").open("a", buffering=1)
    torch.set_num_threads(1)
    if port:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(of), "MASTER_ADDR": "127.0.0.1",
                       "MASTER_PORT": str(port)}
    if quota:
        import resource
        resource.setrlimit(resource.RLIMIT_FSIZE, (quota, quota))
    if die:
        _die_at(die)
    try:
        train(out, toy, **changes)
    except VitrailError as e:
        print(f"{type(e).__name__}: {e}", file=sys.stderr)
        os._exit(e.exit_code)


def _die_at(number: int) -> None:
    """Before call `number` of the disk by this process, counted over all kinds, SIGKILL. Says how many there were."""
    count = 0

    def watched(real: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if count == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)
        return call
    for name in _DISK:
        setattr(os, name, watched(getattr(os, name)))
    facts.git = lambda folder: None                 # not the disk of the run
    multiprocessing.util.Finalize(None, lambda: print("calls", count, file=sys.stderr), exitpriority=1)
