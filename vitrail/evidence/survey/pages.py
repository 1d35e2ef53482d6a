"""The survey for people and programs: a table in words, as Markdown, CSV and JSON, and two figures."""
import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vitrail.core.files import write_file
from vitrail.evidence.survey.run import FORMAT, Line
from vitrail.evidence.survey.plots import ACCURACY, plot
from vitrail.evidence.survey.settings import SurveySettings
from vitrail.figures.style import png

Cells = dict[str, Any]


def rows(lines: Sequence[Line]) -> list[Cells]:
    """One flat row of numbers a model that was measured, in the catalogue's order."""
    found = []
    for line in (x for x in lines if x.found):
        assert line.found is not None
        row: Cells = {
            "model": line.entry.name, "family": line.entry.module.partition(".")[2], "year": line.entry.year,
            "size": "x".join(map(str, line.found["size"])), "params": line.found["params"],
            "multiply_adds": line.found["multiply_adds"],
            **{f"reported_{k}": v for k, v in (asdict(line.reported) if line.reported else _UNKNOWN).items()}}
        for batch, told in line.found["batches"].items():
            row |= {f"peak_bytes_{batch}": told["peak_bytes"],
                    f"eager_images_a_second_{batch}": told["eager"]["images_a_second"],
                    f"optimised_images_a_second_{batch}": told["optimised"]["images_a_second"],
                    f"ratio_{batch}": told["ratio"][0], f"ratio_low_{batch}": told["ratio"][1],
                    f"ratio_high_{batch}": told["ratio"][2], f"rounds_{batch}": told["rounds"],
                    f"yardstick_gflops_{batch}": told["yardstick_gflops"]}
        found.append({**row, "optimised": line.found["optimised"]})
    return found


_UNKNOWN = {"top1": None, "where": "", "release": "", "other_data": None}


def head(batches: Sequence[int]) -> list[str]:
    return ["model", "params", "GFLOPs", "top-1 %", "release",
            *(f"{what} B{b}" for b in batches for what in ("MiB", "images/s", "optimised", "ratio"))]


def cells(lines: Sequence[Line], batches: Sequence[int]) -> list[list[str]]:
    """A line a model that was measured, the most accurate first; those of which nothing is reported last."""
    measured = sorted((x for x in lines if x.found), key=lambda x: -(x.reported.top1 if x.reported else 0))
    return [_cells(x, batches) for x in measured]


def _cells(line: Line, batches: Sequence[int]) -> list[str]:
    assert line.found is not None
    said = line.reported
    row = [line.entry.name, f"{line.found['params'] / 1e6:.1f} M", f"{line.found['multiply_adds'] / 1e9:.3g}",
           "-" if said is None else f"{said.top1:.2f}{'*' if said.other_data else ''}",
           "-" if said is None else said.release or "the paper"]
    for batch in batches:
        told = line.found["batches"].get(str(batch))
        row += ["-"] * 4 if told is None else [
            f"{told['peak_bytes'] / 2**20:.1f}", f"{told['eager']['images_a_second']:.3g}",
            f"{told['optimised']['images_a_second']:.3g}", "{:.2f} ({:.2f} to {:.2f})".format(*told["ratio"])]
    return row


def left_out(lines: Sequence[Line]) -> list[tuple[str, str]]:
    """What is missing and why: models, and batches of models."""
    found = [(x.entry.name, x.left_out) for x in lines if x.left_out]
    return found + [(f"{x.entry.name}, batch {batch}", why)
                    for x in lines if x.found for batch, why in x.found["left_out"].items()]


def note(lines: Sequence[Line]) -> str:
    """How to read the table."""
    speeds = [told["yardstick_gflops"] for x in lines if x.found for told in x.found["batches"].values()]
    steady = f" ({min(speeds):.0f} to {max(speeds):.0f} 1e9 multiply-adds a second over the survey)" if speeds else ""
    return ("top-1: what others report on ImageNet-1k, of which nothing was measured here; * marks a model that "
            "learned from other images first. All else was measured: images a second are medians, of the model as it "
            "is and with its norms and gains folded into the layers beside them, turn by turn in one process with a "
            f"product of matrices{steady}; ratio: optimised over as it is, the median of the rounds' with its "
            "quartiles; MiB: the peak of memory beside weights and images, every allocation counted; GFLOPs: 1e9 "
            "multiply-adds of one image in convolutions, products and attention.")


def page(lines: Sequence[Line], settings: SurveySettings, machine: dict[str, Any]) -> str:
    """The survey as Markdown."""
    titles = head(settings.batches)
    text = ["# The field, on this machine", "", f"`{settings.command()}`", "",
            ", ".join(f"{k} {v}" for k, v in machine.items()), "", note(lines), "",
            "![accuracy against operations](operations.png)", "", "![accuracy against throughput](throughput.png)", "",
            f"| {' | '.join(titles)} |", f"|{'---|' * len(titles)}",
            *(f"| {' | '.join(c)} |" for c in cells(lines, settings.batches))]
    if missing := left_out(lines):
        text += ["", "## Left out", "", *(f"- {name}: {why}" for name, why in missing)]
    sources = sorted({(x.entry.module.partition(".")[2], x.reported.where) for x in lines if x.found and x.reported})
    text += ["", "## Where accuracies are reported", "", *(f"- {family}: {where}" for family, where in sources)]
    return "\n".join(text) + "\n"


def table(lines: Sequence[Line]) -> str:
    """The survey as CSV: every number, a column each."""
    found = rows(lines)
    names = list(dict.fromkeys(name for row in found for name in row))
    names.sort(key=lambda n: n == "optimised")                      # words last
    text = io.StringIO()
    writer = csv.DictWriter(text, names or ["model"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(found)
    return text.getvalue()


def told(lines: Sequence[Line], settings: SurveySettings, machine: dict[str, Any]) -> dict[str, Any]:
    """The survey as JSON."""
    return {"format": FORMAT, "command": settings.command(), "machine": machine, "settings": settings.resolved(),
            "models": [{"name": x.entry.name, "module": x.entry.module, "paper": x.entry.paper, "year": x.entry.year,
                        "reported": asdict(x.reported) if x.reported else None, **(x.found or {})}
                       for x in lines if x.found],
            "left_out": [{"what": name, "why": why} for name, why in left_out(lines)]}


def write(lines: Sequence[Line], settings: SurveySettings, machine: dict[str, Any]) -> list[Path]:
    """Table, numbers and figures in the survey's folder; the files."""
    folder = Path(settings.out)
    made: dict[str, str | bytes] = {
        "survey.md": page(lines, settings, machine), "survey.csv": table(lines),
        "survey.json": json.dumps(told(lines, settings, machine), indent=1, ensure_ascii=False) + "\n",
        **{f"{kind}.png": png(plot(lines, kind, settings.batches[-1])) for kind in ACCURACY}}
    for name, data in made.items():
        write_file(folder / name, data, overwrite=True)
    return [folder / name for name in made]
