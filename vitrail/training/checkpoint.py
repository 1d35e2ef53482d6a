"""Checkpoints: folders of safetensors and JSON that are whole or absent. Never a pickle.

    checkpoints/step-00000042/  model.safetensors optimizer.safetensors [ema.safetensors] state.json manifest.json
    checkpoints/best.json       which of them scored best
    checkpoints/damaged-...     set aside, never deleted

A sharded run (`train.sharded`) has shard-*.safetensors in the place of the three.
"""
import errno
import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor

from vitrail.core.errors import CheckpointError, TrainingError
from vitrail.training import disk, manifest
from vitrail.training.state import State
from vitrail.training.tensors import encoded

_STEP = re.compile(r"step-(\d{8,15})")
_LEFTOVERS = (".saving-", ".dropping-")
_STATE = "state.json"
_SLACK = 1 << 20            # bytes beside the tensors


class Checkpoints:
    """The checkpoints of one run. `say` is told what the user should know."""

    def __init__(self, folder: Path, *, keep: int, say: Callable[[str], None]):
        self.folder, self.keep, self.say = folder, keep, say

    def fill(self, state: State, groups: Mapping[str, Mapping[str, Tensor]], size: int) -> Path:
        """One file a group of tensors, `size` bytes in all, written aside: `commit` makes it a checkpoint.

        Raises TrainingError, here and in `begin` and `commit`, where the disk does not take it: the checkpoints before
        are untouched then, and nothing half-written stays.
        """
        aside = self.begin(state, size)
        try:
            for name, tensors in groups.items():
                if tensors:
                    disk.write(aside / f"{name}.safetensors", encoded(tensors))
        except BaseException as e:
            raise self.abandon(aside, e) from e
        return aside

    def begin(self, state: State, size: int) -> Path:
        """An empty hidden folder beside the checkpoints, on a disk with room for `size` bytes."""
        aside = self.aside(state.step)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._sweep()
            if (room := disk.free(self.folder)) < size + _SLACK:
                raise TrainingError(f"no checkpoint of step {state.step}: it needs {size + _SLACK:,} bytes, and "
                                    f"{self.folder} has room for {room:,}. {self._kept()} Make room, and run the same "
                                    "command again.")
            os.mkdir(aside)
        except OSError as e:
            raise self.abandon(aside, e) from e
        return aside

    def commit(self, aside: Path, state: State) -> Path:
        """Makes what `aside` holds the newest checkpoint, and drops the oldest."""
        final = self.path(state.step)
        try:
            for file in aside.iterdir() if state.layout == "sharded" else ():
                disk.flush_file(file)               # which other processes wrote
            disk.write(aside / _STATE, [(json.dumps(state.to_json(), indent=1, allow_nan=False) + "\n").encode()])
            manifest.seal(aside)
            if os.path.lexists(final):
                self._set_aside(final, "it holds a step that was trained again")
            disk.rename(aside, final)
        except BaseException as e:
            raise self.abandon(aside, e) from e
        try:
            self.note_best(state)
            self._prune(state)
        except OSError as e:
            raise TrainingError(f"the checkpoint {final} is whole, but the disk refuses more: {e}") from e
        return final

    def abandon(self, aside: Path, error: BaseException) -> BaseException:
        """Removes what was half written; returns the error to raise, in the user's words where the disk is to blame."""
        disk.remove(aside)
        if not isinstance(error, OSError):
            return error
        why = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) else "the disk failed"
        return TrainingError(f"no checkpoint of this step: {why} ({error.strerror or error}). {self._kept()} "
                             "Make room, and run the same command again.")

    def newest(self) -> tuple[Path, State] | None:
        """The newest checkpoint that is whole, and its state; newer ones that are not are set aside.

        Raises TrainingError where the disk does not let them be.
        """
        try:
            self._sweep()
            for path in self._all():
                try:
                    manifest.verify(path)
                    return path, state_of(path)
                except CheckpointError as e:
                    self._set_aside(path, str(e))
        except OSError as e:
            raise TrainingError(f"the checkpoints in {self.folder} cannot be used: {e.strerror or e}") from e
        return None

    def whole(self, step: int) -> Path | None:
        """The checkpoint of a step; None, with a message, where it is lost or damaged."""
        path = self.path(step)
        try:
            manifest.verify(path)
            return path
        except CheckpointError as e:
            if os.path.lexists(path):
                self._set_aside(path, str(e))
            else:
                self.say(f"the checkpoint {path} is gone")
            return None

    def note_best(self, state: State) -> None:
        """best.json as the state has it."""
        path = self.folder / "best.json"
        if state.best is None:
            path.unlink(missing_ok=True)
            return
        text = {"checkpoint": _name(state.best.step), "step": state.best.step, "score": state.best.score}
        disk.replace(path, (json.dumps(text, indent=1) + "\n").encode())

    def path(self, step: int) -> Path:
        return self.folder / _name(step)

    def aside(self, step: int) -> Path:
        """Where the checkpoint of a step is while it is written."""
        return self.folder / f"{_LEFTOVERS[0]}{_name(step)}"

    def _all(self) -> list[Path]:
        """The checkpoints, whole or not, newest first."""
        found = [(int(m[1]), p) for p in self._entries() if (m := _STEP.fullmatch(p.name))]
        return [p for _, p in sorted(found, reverse=True)]

    def _entries(self) -> list[Path]:
        return list(self.folder.iterdir()) if self.folder.is_dir() else []

    def _kept(self) -> str:
        there = self._all()
        return f"The last good one, {there[0]}, is intact." if there else "There is none before it."

    def _set_aside(self, path: Path, why: str) -> None:
        new = path.with_name(f"damaged-{path.name}")
        count = 1
        while os.path.lexists(new):
            count += 1
            new = path.with_name(f"damaged-{path.name}-{count}")
        disk.rename(path, new)
        self.say(f"{why}: set aside as {new.name}")

    def _prune(self, state: State) -> None:
        for path in self._all()[self.keep:]:
            if state.best is None or path.name != _name(state.best.step):
                gone = path.with_name(f"{_LEFTOVERS[1]}{path.name}")
                disk.rename(path, gone)         # so that a kill while it is deleted leaves no half checkpoint
                disk.remove(gone)

    def _sweep(self) -> None:
        """What a process that was killed while saving left behind."""
        for path in self._entries():
            if path.name.startswith(_LEFTOVERS) or path.name.endswith(".new"):
                disk.remove(path)


def state_of(path: Path) -> State:
    """The state in a checkpoint. Raises CheckpointError."""
    where = path / _STATE
    state = State.from_json(manifest.parse(disk.read(where, 1 << 24), where), where)
    if _name(state.step) != path.name:
        raise CheckpointError(f"{where} is of step {state.step}, and its folder is named {path.name!r}")
    return state


def _name(step: int) -> str:
    return f"step-{step:08d}"
