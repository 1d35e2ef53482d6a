"""What the page says of how a run was made: from its log and its papers, as far as they can be read."""
import json
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vitrail.data.source import Source


def log(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a metrics.jsonl in which everything is a number. What is no record of a run is passed over."""
    if not path.is_file():
        return
    for line in path.read_text("utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):            # a line that a killed process left unfinished
            continue
        if isinstance(record, dict) and {"kind", "step", "epoch"} <= set(record) and None not in record.values():
            yield record


def papers(run: Path) -> dict[str, Any]:
    """run.json, or nothing where there is none."""
    try:
        found = json.loads((run / "run.json").read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def session(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The last start of the run."""
    return dict((facts.get("sessions") or [{}])[-1])


def settings(facts: Mapping[str, Any]) -> dict[str, Any]:
    return dict(session(facts).get("settings") or {})


def is_held_out(facts: Mapping[str, Any], source: Source) -> bool:
    """Whether these are the images that the run held out: by name and number, which its papers have."""
    data = (facts.get("task") or {}).get("data") or {}
    held = data.get("held_out") or {}
    return (held.get("name"), held.get("samples")) == (source.name, len(source))


def lines(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The last start and the data, flattened."""
    last = session(facts)
    last.pop("settings", None)
    if isinstance(command := last.get("command"), list):
        last["command"] = shlex.join(map(str, command))
    yield from _flat("", last)
    yield from _flat("", {k: v for k, v in (facts.get("task") or {}).items() if k not in ("record", "objective")})


def _flat(prefix: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _flat(f"{prefix} {name}".strip(), inner)
    elif isinstance(value, list) and len(value) > 12:
        yield prefix, f"{len(value)} entries"
    elif value not in (None, "", []):
        yield prefix, ", ".join(map(str, value)) if isinstance(value, list) else str(value)
