"""What a run's folder says of how it was made: its log and its metadata, as far as they can be read."""
import json
import os
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

FIRST_FORMAT = {"val": "held_out"}                  # what a split was called in the first runs


def read_log(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a metrics.jsonl in which everything is a number. What is not a record of a run is passed over."""
    if not path.is_file():
        return
    for line in path.read_text("utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):            # a line that a killed process left unfinished
            continue
        if isinstance(record, dict) and {"kind", "step", "epoch"} <= set(record) and None not in record.values():
            yield record


def read_metadata(run: Path) -> dict[str, Any]:
    """run.json, or nothing where there is none."""
    try:
        metadata = json.loads((run / "run.json").read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return metadata if isinstance(metadata, dict) else {}


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def last_session(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The last start of the run."""
    sessions = metadata.get("sessions")
    return dict(_mapping(sessions[-1])) if isinstance(sessions, list) and sessions else {}


def settings_of(metadata: Mapping[str, Any]) -> dict[str, Any]:
    return dict(_mapping(last_session(metadata).get("settings")))


def data_of(metadata: Mapping[str, Any], split: str) -> Mapping[str, Any]:
    """What is noted of the data of a split: name, samples, fingerprint."""
    data = _mapping(_mapping(metadata.get("task")).get("data"))
    return _mapping(data.get(split, data.get(FIRST_FORMAT.get(split, split))))


def is_held_out(metadata: Mapping[str, Any], dataset: Any) -> bool:
    """Whether this is the data that the run held out: by name and number, which its metadata have."""
    held = data_of(metadata, "val")
    samples = held.get("samples", _mapping(_mapping(metadata.get("task")).get("samples")).get("val"))
    return (held.get("name"), samples) == (dataset.name, len(dataset))


def trained_on(metadata: Mapping[str, Any], dataset: Any) -> int:
    """How many samples of a data set the run learned from, where it is that of the run; 0 where it is not."""
    name = data_of(metadata, "train").get("name")
    if not isinstance(name, str) or not (name == dataset.name or _same(name, dataset.name)):
        return 0
    keys = _mapping(_mapping(metadata.get("task")).get("record")).get("train")
    if not isinstance(keys, list):              # two data sets were named, and all of this one was learned
        return len(dataset)
    known = set(map(str, keys))
    return sum(dataset.key(i) in known for i in range(len(dataset)))


def _same(path: str, other: str) -> bool:
    try:
        return os.path.samefile(path, other)
    except (OSError, ValueError):
        return False


def lines(metadata: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The last start and the data, flattened."""
    last = last_session(metadata)
    last.pop("settings", None)
    if isinstance(command := last.get("command"), list):
        last["command"] = shlex.join(map(str, command))
    yield from _flat("", last)
    task = _mapping(metadata.get("task"))
    yield from _flat("", {name: value for name, value in task.items() if name not in ("record", "objective")})


def _flat(prefix: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _flat(f"{prefix} {name}".strip(), inner)
    elif isinstance(value, list) and len(value) > 12:
        yield prefix, f"{len(value)} entries"
    elif value not in (None, "", []):
        yield prefix, ", ".join(map(str, value)) if isinstance(value, list) else str(value)
