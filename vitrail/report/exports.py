"""What a run was exported to, as its folder keeps it: RUN/exports.json, an entry an artefact."""
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vitrail.core.files import write_file

NAME = "exports.json"


def exports(run: Path) -> list[dict[str, Any]]:
    """The artefacts of a run, in the order of their making; none where no readable list is there."""
    try:
        found = json.loads((run / NAME).read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return []
    listed = found.get("exports") if isinstance(found, dict) else None
    return [e for e in listed if isinstance(e, dict)] if isinstance(listed, list) else []


def note_export(run: Path, made: Mapping[str, Any]) -> None:
    """Adds an artefact (Exported.to_json()) to a run's list, in the place of an older one of the same path.

    Raises VitrailError where the list cannot be written.
    """
    kept = [e for e in exports(run) if e.get("path") != made["path"]]
    write_file(run / NAME, json.dumps({"exports": [*kept, dict(made)]}, indent=1) + "\n", overwrite=True)
