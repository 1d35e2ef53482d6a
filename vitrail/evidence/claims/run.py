"""Running claims, and keeping what was found: a JSON file and a plot a claim, and a page over all of them."""
import importlib
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from vitrail.core.errors import DataError
from vitrail.core.files import write_file
from vitrail.evidence.claims.claim import Claim, Outcome
from vitrail.evidence.claims.registry import CLAIMS
from vitrail.measure.machine import machine
from vitrail.figures.style import png

FORMAT = "vitrail-evidence-1"


def run(claim: Claim, *, smoke: bool = False) -> Outcome:
    """Runs a claim. smoke: at sizes that take seconds, to see that the machinery works; its verdict means nothing."""
    runs: Mapping[str, Callable[[bool], Outcome]] = importlib.import_module(f"vitrail.evidence.{claim.module}").RUNS
    return runs[claim.id](smoke)


def publish(claim: Claim, folder: Path, *, overwrite: bool = False) -> tuple[Outcome, Path]:
    """Runs a claim and writes `<id>.json` and, where there is one, its plot `<id>.png` into a folder.

    Raises VitrailError where the claim's result is there and `overwrite` is not given, and where it cannot be written.
    """
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder} is a file, where a folder for results was to be: name another")
    path = folder / f"{claim.id}.json"
    if path.exists() and not overwrite:
        write_file(path, b"")                                           # refuses, and says how to replace it
    start = time.monotonic()
    outcome = run(claim)
    told = {"format": FORMAT, "id": claim.id, "kind": claim.kind, "says": claim.says, "source": claim.source,
            "miniature": claim.miniature, "statistic": claim.statistic, "refuted_by": claim.refuted_by,
            "held": outcome.held, "finding": outcome.finding, "numbers": dict(outcome.numbers),
            "seconds": round(time.monotonic() - start, 1), "command": f"vitrail claims run {claim.id}",
            "machine": machine(_where(claim)), "plot": outcome.figure is not None}
    if outcome.figure is not None:
        write_file(folder / f"{claim.id}.png", png(outcome.figure), overwrite=True)
    write_file(path, json.dumps(told, indent=1, ensure_ascii=False, allow_nan=False) + "\n", overwrite=True)
    return outcome, path


def _where(claim: Claim) -> torch.device:
    """Networks are taught on a GPU where there is one; everything else is measured on the processor."""
    if claim.kind == "learning":
        from vitrail.evidence.learning.loop import home
        return home()
    return torch.device("cpu")


def report(folder: Path) -> Path:
    """Writes README.md over every claim whose JSON stands in the folder. Raises DataError where none does."""
    found = {p.stem: _read(p) for p in sorted(folder.glob("*.json"))}
    told = [result for name in CLAIMS if (result := found.get(name))]
    if not told:
        raise DataError(f"{folder} holds no claim's result: `vitrail claims run ID --out {folder}` writes one")
    missing = [name for name in CLAIMS if not found.get(name)]
    held = sum(t["held"] for t in told)
    lines = ["# Claims of the field, run again", "",
             f"{len(told)} claims were run: {held} held, {len(told) - held} did not. Each says what would refute it "
             "before it runs; `vitrail claims run ID` runs it again. Written by `vitrail claims report`.", ""]
    if missing:
        lines += [f"Not run yet: {', '.join(missing)}.", ""]
    lines += ["| claim | kind | verdict | what was found |", "|---|---|---|---|"]
    lines += [f"| [{t['id']}](#{t['id']}) | {t['kind']} | {verdict(t['held'])} | {t['finding']} |" for t in told]
    for t in told:
        lines += ["", f"## {t['id']}", "", f"**{t['says']}** ({t['source']})", "",
                  f"- What was done: {t['miniature']}", f"- What was looked at: {t['statistic']}",
                  f"- What would have refuted it: {t['refuted_by']}", f"- **{verdict(t['held'])}**: {t['finding']}",
                  f"- `{t['command']}`, {t['seconds']:g} s, torch {t['machine']['torch']}, {t['machine']['name']}, "
                  f"{t['machine']['threads']} threads; numbers in [{t['id']}.json]({t['id']}.json)"]
        if t["plot"]:
            lines += ["", f"![{t['id']}]({t['id']}.png)"]
    path = folder / "README.md"
    write_file(path, "\n".join(lines) + "\n", overwrite=True)
    return path


def verdict(held: bool) -> str:
    return "held" if held else "did not hold"


def _read(path: Path) -> dict[str, Any] | None:
    """A claim's result; None for a file that is none. Raises DataError for a damaged one."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as e:
        raise DataError(f"{path} is not readable as JSON: {e}; run its claim again") from None
    return data if isinstance(data, dict) and data.get("format") == FORMAT else None
