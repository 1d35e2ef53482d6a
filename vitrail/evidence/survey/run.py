"""The survey: what every backbone costs on this machine, beside the accuracy that its authors report.

Each model is measured in a process of its own, so that none inherits another's memory and a crash ends one line, not
the survey. What is measured is written at once; the same command goes on where it was stopped.
"""
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import vitrail
from vitrail.core import catalogue
from vitrail.core.card import Figures, Variant
from vitrail.core.catalogue import Entry
from vitrail.core.errors import DataError, SettingsError
from vitrail.core.files import write_file
from vitrail.evidence.survey.settings import SurveySettings
from vitrail.measure.machine import machine

FORMAT = "vitrail-survey-1"
GRACE = 120.0           # seconds beside the budget, for building, folding and counting
OTHER_DATA = re.compile(r"21k|22k|12k|jft|laion|lvd|clip|openai|datacomp|ig1b")     # in a release's name


@dataclass(frozen=True, kw_only=True)
class Reported:
    """A top-1 on ImageNet-1k that others report. other_data: whether it learned from more than ImageNet-1k first."""

    top1: float
    where: str
    release: str            # empty where it is the paper's own figure
    other_data: bool


@dataclass(frozen=True, kw_only=True)
class Line:
    """One model of the survey: what was measured of it, or why it was left out."""

    entry: Entry
    reported: Reported | None
    found: dict[str, Any] | None = None
    left_out: str = ""


def reported(variant: Variant[Any]) -> Reported | None:
    """The best plain ImageNet-1k top-1 that the card quotes at the size it is measured at: of ImageNet-1k alone where
    there is such a one, else of a model that saw other images before; None where there is none."""
    figures, found = variant.figures, []
    assert isinstance(figures, Figures)
    for w in variant.weights:
        if "top1" in w.reported and w.image == figures.image and w.classes == 1000:
            found.append(Reported(top1=w.reported["top1"], where=w.where, release=w.name,
                                  other_data=bool(OTHER_DATA.search(w.name))))
    if "top1" in figures.reported:
        found.append(Reported(top1=figures.reported["top1"], where=figures.where, release="", other_data=False))
    return max(found, key=lambda r: (not r.other_data, r.top1), default=None)


def run(settings: SurveySettings, *, tell: Callable[[int, int, str], None] = lambda done, of, text: None) -> list[Line]:
    """Measures every chosen model that has not been, and writes OUT/models/<name>.json for each. tell: is told how many
    of how many are done, and what the last one came to.

    Raises SettingsError where the folder holds measurements of another machine, version or way of measuring; with
    `settings.remeasure` those are made anew.
    """
    folder, entries = Path(settings.out), settings.chosen()
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder} is a file, where a folder for the survey was to be: name another --out")
    if settings.threads:
        torch.set_num_threads(settings.threads)
    here = {**machine(torch.device("cpu")), **settings.conditions()}
    large = {e.name: _too_large(e, settings) for e in entries}
    # all are looked at before the first is measured, as one that cannot stand beside it ends the survey
    kept = {e.name: None if large[e.name] else _kept(folder, e, here, settings) for e in entries}
    lines = []
    for done, entry in enumerate(entries, 1):
        found, why = kept[entry.name], large[entry.name]
        if found is None and not why:
            found = _measured(entry, settings)
            write_file(_file(folder, entry), json.dumps({"format": FORMAT, "conditions": here, **_told(entry),
                                                         "allowed": _allowed(settings), "found": found},
                                                        indent=1) + "\n", overwrite=True)
        line = _line(entry, found, why)
        lines.append(line)
        tell(done, len(entries), _summary(line))
    return lines


def look(settings: SurveySettings) -> list[Line]:
    """What has been measured so far, of the chosen models, under the same conditions; the others as not measured."""
    here = {**machine(torch.device("cpu")), **settings.conditions()}
    folder = Path(settings.out)
    return [_line(e, None if (why := _too_large(e, settings)) else _kept(folder, e, here, settings),
                  why or "not measured yet") for e in settings.chosen()]


def _line(entry: Entry, found: dict[str, Any] | None, why: str) -> Line:
    if found is not None and not found.get("batches"):
        why = found.get("failed") or "; ".join(f"batch {b}: {w}" for b, w in found["left_out"].items())
        found = None
    return Line(entry=entry, reported=reported(catalogue.variant_of(entry.name)), found=found,
                left_out="" if found else why)


def _summary(line: Line) -> str:
    if line.found is None:
        return f"{line.entry.name}: left out, {line.left_out}"
    last = list(line.found["batches"])[-1]
    of = line.found["batches"][last]
    return (f"{line.entry.name}: {of['optimised']['images_a_second']:.3g} images/s in batches of {last}, "
            f"{of['ratio'][0]:.2f} x eager ({line.found['optimised']})")


def _too_large(entry: Entry, settings: SurveySettings) -> str:
    """Why a model is not even tried."""
    limit = _limit_gb(settings)
    holds = 2 * 4 * entry.params / 2**30                            # its weights, and those of its folded copy
    if settings.limit_gflops and entry.gflops > settings.limit_gflops:
        return f"{entry.gflops:.4g} GFLOPs, of {settings.limit_gflops:g} allowed"
    return f"its weights and their copy are {holds:.1f} GiB, of {limit:.1f} allowed" if holds > limit else ""


def _limit_gb(settings: SurveySettings) -> float:
    if settings.limit_gb:
        return settings.limit_gb
    try:
        return 0.75 * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (ValueError, OSError, AttributeError):                   # a system that does not tell
        return float("inf")


def _measured(entry: Entry, settings: SurveySettings) -> dict[str, Any]:
    """What `survey_measure` found in a process of its own; under "failed", why it found nothing."""
    limit = _limit_gb(settings)
    job = {"name": entry.name, "batches": settings.batches, "rounds": settings.rounds, "threads": settings.threads,
           "budget": settings.budget_seconds, "limit_gb": limit if limit < float("inf") else 0}
    root = str(Path(vitrail.__file__).parents[1])                   # where this vitrail is, however it was found
    paths = os.pathsep.join(p for p in (root, os.environ.get("PYTHONPATH", "")) if p)
    child = subprocess.Popen([sys.executable, "-m", "vitrail.evidence.survey.measure"], stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8",
                             env={**os.environ, "PYTHONPATH": paths})
    assert child.stdin is not None
    allowed = 2 * settings.budget_seconds + GRACE
    try:
        child.stdin.write(json.dumps(job) + "\n")
        child.stdin.flush()
        stdin, child.stdin = child.stdin, None                      # communicate() would close it, and so end the child
        try:
            out, err = child.communicate(timeout=allowed)
        finally:
            stdin.close()
    except BrokenPipeError:
        out, err = child.communicate()
    except subprocess.TimeoutExpired:
        return {"failed": f"it had not ended after {allowed:.0f} s"}
    finally:
        child.kill()
        child.wait()
    try:
        found: dict[str, Any] = json.loads(out.strip().splitlines()[-1])
    except (ValueError, IndexError):
        return {"failed": _reason(child.returncode, err)}
    return found


def _reason(code: int, err: str) -> str:
    """Why a process ended without an answer."""
    if code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        return f"its process was ended by {name}" + (", as systems do that run out of memory" if code == -9 else "")
    last = (err.strip().splitlines() or [f"its process ended with code {code} and said nothing"])[-1]
    return f"it failed: {last[:300]}"


def _file(folder: Path, entry: Entry) -> Path:
    return folder / "models" / f"{entry.name}.json"


def _told(entry: Entry) -> dict[str, Any]:
    """What a measurement is of: where the catalogue says something else of that name, it is of another model."""
    return {"name": entry.name, "module": entry.module, "params": entry.params, "gflops": entry.gflops}


def _kept(folder: Path, entry: Entry, here: dict[str, Any], settings: SurveySettings) -> dict[str, Any] | None:
    """An earlier measurement that still holds. Raises SettingsError for one that was made under other conditions."""
    path = _file(folder, entry)
    try:
        data = json.loads(path.read_text("utf-8"))
        there, found = data["conditions"], data["found"]
        whole = data["format"] == FORMAT and isinstance(there, dict) and isinstance(found, dict)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        whole = False
    if not whole:
        raise DataError(f"{path} is no measurement of a survey, or is damaged: remove it, and it is made again")
    changed = differences(there, here)
    if changed and not settings.remeasure:
        raise SettingsError(f"{path} was measured under other conditions ({'; '.join(changed)}), and would stand in "
                            "one table with what is measured now: name another --out, or say --remeasure to replace it")
    if changed or any(data.get(k) != v for k, v in _told(entry).items()):
        return None
    other = data.get("allowed") != _allowed(settings)               # what was too much then may not be now
    return None if "failed" in found or (other and found.get("left_out")) else found


def _allowed(settings: SurveySettings) -> list[float]:
    return [settings.budget_seconds, round(min(_limit_gb(settings), 1e9), 3)]


def differences(there: dict[str, Any], here: dict[str, Any]) -> Sequence[str]:
    """`torch: 2.12 there, 2.13 here`, for each condition that is not the same."""
    return [f"{k}: {there.get(k)!r} there, {here.get(k)!r} here" for k in {**there, **here}
            if there.get(k) != here.get(k)]
