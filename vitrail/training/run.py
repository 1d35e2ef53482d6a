"""The folder of a run: its settings, what it was made of, its log, its checkpoints, and the finished model.

    settings.toml   resolved        run.json      data, versions, machine, each start, the end
    metrics.jsonl   one line each   tensorboard/  checkpoints/  model/
"""
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from torch.utils.tensorboard import SummaryWriter

from vitrail.core.errors import CheckpointError, SettingsError, TrainingError
from vitrail.training import disk, manifest
from vitrail.training.settings import RunSettings, TrainSettings

try:
    import fcntl
except ImportError:             # Windows has no such lock
    fcntl = None                # type: ignore[assignment]

_FORMAT = "vitrail-run/1"
_BORN = {".lock", "settings.toml", ".settings.toml.new", ".run.json.new"}     # all that a run holds before run.json
_LARGEST = 1 << 28


class Run:
    """One run's folder. Only the first process of a run (`lead`) writes.

    Raises SettingsError where the folder holds anything but this very run, and touches nothing then. A run that was
    stopped before its first checkpoint has learned nothing, and gives way to one with other settings or other data.
    """

    def __init__(self, settings: TrainSettings | RunSettings, *, lead: bool):
        self.settings, self.lead = settings, lead
        self.folder = Path(settings.out)
        self._lock = self._log = -1
        self._board: SummaryWriter | None = None
        self.record: dict[str, Any] | None = self._inspect()
        if lead:
            self._create()

    @classmethod
    def look(cls, settings: TrainSettings | RunSettings) -> None:
        """Raises what `open` would raise for what lies in the folder, and touches nothing."""
        cls(settings, lead=False)

    @classmethod
    def open(cls, settings: TrainSettings | RunSettings) -> "Run":
        """A new run, or the one in settings.out to go on with, as settings.resume allows."""
        return cls(settings, lead=os.environ.get("RANK", "0") == "0")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def model(self) -> Path:
        return self.folder / "model"

    @property
    def finished(self) -> dict[str, Any] | None:
        """How the run ended; None while it can go on."""
        return self.record.get("finished") if self.record and self.model.is_dir() else None

    def begin(self, task: Mapping[str, Any], session: Mapping[str, Any], *, step: int,
              evaluated: int) -> None:
        """Notes a start from `step`, and drops what the log says of later steps, and the scores after `evaluated`.

        Raises SettingsError for other data.
        """
        if not self.lead:
            return
        self.check(task)
        old = self.record
        if old is None or old["task"].get("fingerprint") != task.get("fingerprint"):
            old = {"format": _FORMAT, "task": _plain(task), "sessions": [], "finished": None}
        session = {**session, "settings": _plain(self.settings.resolved())}
        self._write({**old, "sessions": [*old["sessions"], session], "finished": None})
        try:
            path = self.folder / "metrics.jsonl"
            if path.exists():
                disk.replace(path, b"".join(_until(path, step, evaluated)))
            self._log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            self._board = SummaryWriter(str(self.folder / "tensorboard"), purge_step=step + 1)
        except OSError as e:
            raise TrainingError(f"cannot write into {self.folder}: {e.strerror or e}") from e

    def check(self, task: Mapping[str, Any]) -> None:
        """Raises SettingsError where the run was started with other data."""
        then, now = (self.record or {}).get("task", task).get("fingerprint"), task.get("fingerprint")
        if then != now and self._learned():
            raise SettingsError(f"{self.folder} holds a run on other data (fingerprint {str(then)[:12]}, and this is "
                                f"{str(now)[:12]}): give the data it was started with, or another folder")

    def log(self, kind: str, step: int, epoch: int, values: Mapping[str, float]) -> None:
        """One line of metrics.jsonl, and the same for TensorBoard. What is not a number becomes null."""
        if not self.lead:
            return
        line = json.dumps({"kind": kind, "step": step, "epoch": epoch, **_plain(values)}, allow_nan=False) + "\n"
        try:
            os.write(self._log, line.encode())
            if self._board is not None:
                for name, value in values.items():
                    self._board.add_scalar(f"{kind}/{name}", value, step)
        except OSError as e:
            raise TrainingError(f"step {step}: {self.folder / 'metrics.jsonl'} cannot be written ({e.strerror or e}); "
                                "the last checkpoint is intact. Make room, and run the same command again.") from e

    def flush(self) -> None:
        """The log, onto the disk: before a checkpoint is, so that it never lacks a line of the past."""
        try:
            if self._log >= 0:
                os.fsync(self._log)
        except OSError as e:
            raise TrainingError(f"{self.folder / 'metrics.jsonl'} cannot be written ({e.strerror or e}); the last "
                                "checkpoint is intact. Make room, and run the same command again.") from e

    def finish(self, facts: Mapping[str, Any]) -> None:
        if self.lead and self.record is not None:
            self._write({**self.record, "finished": _plain(facts)})

    def close(self) -> None:
        if self._board is not None:
            self._board.close()
        for handle in (self._log, self._lock):
            if handle >= 0:
                os.close(handle)
        self._board, self._log, self._lock = None, -1, -1

    def _inspect(self) -> dict[str, Any] | None:
        """What run.json says, None for a new run. Raises SettingsError where this run cannot live here."""
        folder, settings = self.folder, self.settings
        if folder.exists() and not folder.is_dir():
            raise SettingsError(f"{folder} is no folder")
        names = set(os.listdir(folder)) if folder.is_dir() else set()
        if foreign := sorted(names - _BORN) if "run.json" not in names else []:
            raise SettingsError(f"{folder} holds files that are no run's ({foreign[0]!r}): give a new folder")
        if "run.json" not in names and settings.resume == "must":
            raise SettingsError(f"resume = 'must', and {folder} holds no run to go on with")
        if "run.json" in names and settings.resume == "never":
            raise SettingsError(f"resume = 'never', and {folder} holds a run already: give another folder")
        if "settings.toml" in names:
            differing = settings.changed(type(settings).read(folder / "settings.toml"))
            if differing and self._learned():
                raise SettingsError(f"{folder} holds another run ({'; '.join(differing)}): give its settings to go on, "
                                    "or another folder")
        return self._read() if "run.json" in names else None

    def _learned(self) -> bool:
        """Whether the folder holds anything that took training: a checkpoint, or a finished model."""
        kept = self.folder / "checkpoints"
        return self.model.exists() or (kept.is_dir() and any(os.scandir(kept)))

    def _read(self) -> dict[str, Any]:
        path = self.folder / "run.json"
        try:
            record = manifest.parse(disk.read(path, _LARGEST), path)
        except CheckpointError as e:
            raise SettingsError(f"{self.folder} holds no readable run: {e}") from None
        good = isinstance(record.get("task"), dict) and isinstance(record.get("sessions"), list)
        if record.get("format") != _FORMAT or not good or not isinstance(record.get("finished", 0), dict | None):
            raise SettingsError(f"{path} is not what this version of vitrail writes: give another folder")
        return record

    def _create(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
            if fcntl is not None:
                try:
                    fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)      # ends with the process; not inherited
                except OSError:
                    self.close()
                    raise SettingsError(f"another process is training in {self.folder}") from None
            if not (self.folder / "settings.toml").exists() or not self._learned():
                disk.replace(self.folder / "settings.toml", self.settings.to_toml().encode())
        except OSError as e:
            self.close()
            raise SettingsError(f"cannot write into {self.folder}: {e.strerror or e}") from None

    def _write(self, record: dict[str, Any]) -> None:
        try:
            disk.replace(self.folder / "run.json", (json.dumps(record, indent=1, allow_nan=False) + "\n").encode())
        except OSError as e:
            raise TrainingError(f"cannot write into {self.folder}: {e.strerror or e}") from e
        self.record = record


def _until(path: Path, step: int, evaluated: int) -> list[bytes]:
    """The lines of a log up to a step. A line that a killed process left unfinished goes."""
    kept = []
    for text in path.read_bytes().splitlines(keepends=True):
        try:
            line = json.loads(text)
            if text.endswith(b"\n") and line["step"] <= (evaluated if line["kind"] == "eval" else step):
                kept.append(text)
        except (ValueError, TypeError, KeyError, RecursionError):
            continue
    return kept


def _plain(value: Any) -> Any:
    """The value as JSON knows it: tuples as lists, paths as text, what is not finite as null."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, (str, int, bool, type(None))) else str(value)
