"""What a run trained on and what it held out, read from its papers."""
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitrail.core.errors import DataError

if TYPE_CHECKING:
    from vitrail.data.source import Source


def held_out(run: Path) -> "Source":
    """The images that a run held out, opened as the run did. Raises DataError where they are no longer the same."""
    from vitrail.recipes.classify import open_sides
    from vitrail.recipes.settings import ClassifySettings

    if not (run / "settings.toml").is_file() or not (run / "run.json").is_file():
        raise DataError(f"{run} is no run's folder, which has settings.toml and run.json: name the DATA to evaluate on")
    source = open_sides(ClassifySettings.read(run / "settings.toml")).held_out
    then = _task(run).get("data", {}).get("held_out", {}).get("fingerprint")
    if then is None:
        raise DataError(f"{run / 'run.json'} does not say which images were held out: name the DATA")
    if source.fingerprint() != then:
        raise DataError(f"{source.name} has changed since {run} was trained on it: what would be held out now may have "
                        "been trained on. Give back the old images, or name DATA that the model has not seen")
    return source


def trained_on(run: Path, source: "Source") -> int:
    """How many of a source's images the run learned from, where it is the data set of the run; 0 where it is not."""
    task = _task(run)
    name = task.get("data", {}).get("train", {}).get("name")
    if not isinstance(name, str) or not (name == source.name or _same(name, source.name)):
        return 0
    keys = task.get("record", {}).get("train")
    if not isinstance(keys, list):              # two data sets were named, and all of this one was learned
        return len(source)
    known = set(map(str, keys))
    return sum(source.key(i) in known for i in range(len(source)))


def _same(one: str, other: str) -> bool:
    try:
        return os.path.samefile(one, other)
    except (OSError, ValueError):
        return False


def _task(run: Path) -> dict[str, Any]:
    """What run.json says of the data, as far as it can be read."""
    try:
        found = json.loads((run / "run.json").read_text("utf-8"))["task"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}
    good = isinstance(found, dict) and isinstance(found.get("data", {}), dict) and \
        all(isinstance(side, dict) for side in found.get("data", {}).values()) and \
        isinstance(found.get("record", {}), dict)
    return found if good else {}
