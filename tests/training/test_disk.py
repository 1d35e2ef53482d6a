"""What is promised of files: the order in which they reach the disk, and a disk that takes no more."""
import errno
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.training.children import bits, end, said, settings, start, train
from tests.training.test_resume import run_until
from tests.training.toys import Toy
from vitrail.core.errors import TrainingError
from vitrail.training import disk
from vitrail.training.checkpoint import Checkpoints
from vitrail.training.loop import fit
from vitrail.training.run import Run


class Recorder:
    """Every call that changes the disk, in order, by name and path."""

    def __init__(self, patch: pytest.MonkeyPatch):
        self.events: list[tuple[str, str]] = []
        self.paths: dict[int, str] = {}
        real_open = os.open

        def opened(path: Any, *args: Any, **kwargs: Any) -> int:
            handle = real_open(path, *args, **kwargs)
            self.paths[handle] = str(path)
            return handle
        patch.setattr(os, "open", opened)
        for name in ("write", "fsync"):
            patch.setattr(os, name, self._watched(name, getattr(os, name), lambda h: self.paths.get(h, "?")))
        for name in ("rename", "replace", "mkdir"):
            patch.setattr(os, name, self._watched(name, getattr(os, name), str))

    def _watched(self, name: str, real: Callable[..., Any], of: Callable[[Any], str]) -> Callable[..., Any]:
        def call(first: Any, *args: Any, **kwargs: Any) -> Any:
            self.events.append((name, of(first)))
            return real(first, *args, **kwargs)
        return call


def test_write_then_file_then_folder_then_rename_then_parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "run"
    chosen = settings(out, epochs=1, save_every=0)
    with Run.open(chosen) as run:
        recorder = Recorder(monkeypatch)
        fit(Toy(), chosen, run)
    monkeypatch.undo()
    store, aside = str(out / "checkpoints"), str(out / "checkpoints" / ".saving-step-00000005")
    events = recorder.events
    renamed = events.index(("rename", aside))
    files = {path for name, path in events if path.startswith(aside + "/")}
    assert {Path(f).name for f in files} == {"model.safetensors", "optimizer.safetensors", "ema.safetensors",
                                             "state.json", "manifest.json"}
    folder = max(i for i, e in enumerate(events[:renamed]) if e == ("fsync", aside))
    for file in files:
        writes = [i for i, e in enumerate(events) if e == ("write", file)]
        flushes = [i for i, e in enumerate(events) if e == ("fsync", file)]
        assert writes and max(writes) < max(flushes) < folder < renamed
    assert ("fsync", store) in events[renamed + 1:renamed + 2], "the parent is flushed right after the rename"
    log = [i for i, e in enumerate(events) if e == ("fsync", str(out / "metrics.jsonl"))]
    assert log and log[0] < renamed, "the log is on the disk before the checkpoint that knows of it"
    handed = events.index(("rename", str(out / ".model.new")))
    assert events[handed + 1] == ("fsync", str(out)) and ("fsync", str(out / ".model.new")) in events[:handed]


def test_old_checkpoints_go_only_after_the_new_one_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = settings(tmp_path / "run", keep=1, save_every=5, evaluate_every=3)
    with Run.open(chosen) as run:
        recorder = Recorder(monkeypatch)
        fit(Toy(), chosen, run)
    monkeypatch.undo()
    renames = [re.sub(r".*/", "", path) for name, path in recorder.events if name == "rename" and "step" in path]
    assert renames == [".saving-step-00000005", ".saving-step-00000010", "step-00000005", ".saving-step-00000015",
                       "step-00000010"]


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
@pytest.mark.parametrize("call", ["write", "fsync", "rename", "mkdir"])
def test_a_disk_that_refuses_leaves_the_last_good_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str,
                                                             error: int) -> None:
    out = tmp_path / "run"
    run_until(out, 7, {})                                       # checkpoints of steps 4, 5 (the best) and 6
    before = {p: p.read_bytes() for p in (out / "checkpoints").rglob("*") if p.is_file()}
    real, counted = getattr(os, call), [0]
    paths: dict[int, str] = {}
    real_open = os.open

    def opened(path: Any, *args: Any, **kwargs: Any) -> int:
        handle = real_open(path, *args, **kwargs)
        paths[handle] = str(path)
        return handle

    def refused(first: Any, *args: Any, **kwargs: Any) -> Any:
        path = paths.get(first, "") if isinstance(first, int) else str(first)
        if ".saving-step-00000008" in path:
            counted[0] += 1
            if counted[0] == (2 if call in ("write", "fsync") else 1):      # within the second file
                raise OSError(error, os.strerror(error))
        return real(first, *args, **kwargs)
    monkeypatch.setattr(os, "open", opened)
    monkeypatch.setattr(os, call, refused)
    with pytest.raises(TrainingError, match=r"step-00000006, is intact"):
        train(out)
    monkeypatch.undo()
    assert counted[0]
    assert {p: p.read_bytes() for p in (out / "checkpoints").rglob("*") if p.is_file()} == before
    assert not [p for p in (out / "checkpoints").iterdir() if p.name.startswith(".")]
    train(out)                                                  # the disk is well again
    train(tmp_path / "whole")
    assert bits(out) == bits(tmp_path / "whole")


@pytest.mark.parametrize("share", [0.02, 0.3, 0.7, 0.95])
def test_files_that_may_not_grow(tmp_path: Path, share: float) -> None:
    """The limit of the system itself, at several places of the largest file."""
    train(tmp_path / "whole", save_every=5)
    largest = max(p.stat().st_size for p in (tmp_path / "whole").rglob("*.safetensors"))
    out = tmp_path / "run"
    assert end(start(out, quota=max(int(share * largest), 4096), save_every=5)) == 1
    assert re.search(r"TrainingError: .*(the disk is full|cannot be written)", said(out))
    assert not list((out / "checkpoints").glob("*step*"))
    train(out, save_every=5)
    assert bits(out) == bits(tmp_path / "whole")


def test_room_is_asked_for_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "run"
    run_until(out, 7, {})
    monkeypatch.setattr(disk, "free", lambda path: 1_050_000)
    before = sorted(p for p in (out / "checkpoints").rglob("*"))
    with pytest.raises(TrainingError, match=r"has room for 1,050,000.*step-00000006, is intact"):
        train(out)
    assert sorted(p for p in (out / "checkpoints").rglob("*")) == before


def test_a_full_disk_stops_the_log_with_the_checkpoints_intact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = settings(tmp_path / "run")
    real = os.write
    with Run.open(chosen) as run:
        def refused(handle: int, data: bytes) -> int:
            if handle == run._log and b'"step": 8' in data:
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(handle, data)
        monkeypatch.setattr(os, "write", refused)
        with pytest.raises(TrainingError, match=r"step 8: .*metrics.jsonl cannot be written"):
            fit(Toy(), chosen, run)
    monkeypatch.undo()
    found = Checkpoints(run.checkpoints, keep=2, say=print).newest()
    assert found is not None and found[1].step == 6


def test_a_log_that_cannot_be_flushed_stops_the_run_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = settings(tmp_path / "run")
    real = os.fsync
    with Run.open(chosen) as run:
        def refused(handle: int) -> None:
            if handle == run._log:
                raise OSError(errno.EIO, "Input/output error")
            real(handle)
        monkeypatch.setattr(os, "fsync", refused)
        with pytest.raises(TrainingError, match=r"metrics.jsonl cannot be written \(Input/output error\)"):
            fit(Toy(), chosen, run)
    assert not list(run.checkpoints.glob("*step*"))


def test_checkpoints_that_may_not_be_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "run"
    run_until(out, 7, {})
    (out / "checkpoints" / "step-00000006" / "state.json").write_text("{}")

    def refused(old: object, new: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")
    monkeypatch.setattr(os, "rename", refused)
    with pytest.raises(TrainingError, match=r"cannot be used: Permission denied"):
        train(out)


def test_leftovers_of_killed_saves_go(tmp_path: Path) -> None:
    out = tmp_path / "run"
    run_until(out, 7, {})
    store = out / "checkpoints"
    for name in (".saving-step-00000099", ".dropping-step-00000001"):
        (store / name).mkdir()
        (store / name / "model.safetensors").write_bytes(b"half")
    (store / ".best.json.new").write_bytes(b"{")
    train(out)
    assert not [p.name for p in store.iterdir() if p.name.startswith(".")]
