"""What the committed measurements say of a paper: rows of docs/parity.md, docs/survey, docs/digits, docs/attention."""
import functools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[1] / "docs"


def cell(text: object) -> str:
    """A text as a cell of a Markdown table: bars and angle brackets are only themselves."""
    return str(text).replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """A Markdown table with an empty line behind it; nothing where there are no rows."""
    if not rows:
        return []
    lines = [f"| {' | '.join(header)} |", f"|{'---|' * len(header)}"]
    return [*lines, *(f"| {' | '.join(cell(value) for value in row)} |" for row in rows), ""]


def rows_of(text: str, first: str) -> Iterator[dict[str, str]]:
    """The rows of every Markdown table of a page whose first column has this title, by the columns' titles."""
    header: list[str] = []
    for line in text.splitlines():
        cells = [part.strip() for part in line.strip().strip("|").split("|")] if line.startswith("|") else []
        if not cells:
            header = []
        elif not header:
            header = cells
        elif header[0] == first and not set(line) <= set("|-: "):
            yield dict(zip(header, cells, strict=True))


@functools.cache
def parity() -> dict[str, list[dict[str, str]]]:
    """The measured comparisons with references, of each module: docs/parity.md."""
    table_of: dict[str, list[dict[str, str]]] = {}
    for row in rows_of((DOCS / "parity.md").read_text("utf-8"), "system"):
        table_of.setdefault(row["module"], []).append(row)
    return table_of


@functools.cache
def proofs() -> dict[str, list[dict[str, str]]]:
    """What each mechanism, position code and foundation was compared with: docs/mechanisms.md."""
    table_of: dict[str, list[dict[str, str]]] = {}
    name = ""
    for row in rows_of((DOCS / "mechanisms.md").read_text("utf-8"), "name"):
        name = row["name"] or name                          # only the first of a name's rows repeats it
        table_of.setdefault(name, []).append(row)
    return table_of


@functools.cache
def survey() -> dict[str, dict[str, Any]]:
    """What each system costs on the machine of the survey: docs/survey/survey.json."""
    data = json.loads((DOCS / "survey" / "survey.json").read_text("utf-8"))
    return {model["name"]: model for model in data["models"]}


@functools.cache
def attention_costs() -> dict[str, dict[str, Any]]:
    """What each mechanism costs against the number of tokens: docs/attention/attention.json."""
    data = json.loads((DOCS / "attention" / "attention.json").read_text("utf-8"))
    return {row["name"]: row for row in data["rows"]}


@functools.cache
def digits() -> dict[str, dict[str, str]]:
    """The score of each backbone's small network on the bundled digits, by module: docs/digits.md."""
    return {row["paper"]: row for row in rows_of((DOCS / "digits.md").read_text("utf-8"), "paper")}


def worst(values: Sequence[str]) -> str:
    """The largest of differences that are written as 1.2e-06, or as 0."""
    return max(values, key=float)


def survey_table(names: Sequence[str]) -> list[str]:
    """Measured throughput and memory of the systems that the survey holds, in this order."""
    rows = []
    for name in names:
        model = survey().get(name)
        if model is None:
            continue
        row = [f"`{name}`"]
        for batch in ("1", "8"):
            measured = model["batches"].get(batch)
            if measured and "eager" in measured:
                row += [f"{measured['eager']['images_a_second']:.3g}", f"{measured['peak_bytes'] / 2**20:.1f}"]
            else:
                row += ["-", "-"]
        rows.append(row)
    return table(("system", "images/s, batch 1", "MiB", "images/s, batch 8", "MiB"), rows)


def attention_table(names: Sequence[str]) -> list[str]:
    """Measured time and memory of mechanisms at the largest number of tokens that each was measured at."""
    rows = []
    for name in names:
        row = attention_costs().get(name)
        if row is None or not row["tokens"]:
            continue
        exponents = [f"N^{row[key]['exponent']:.2f}" if row.get(key) else "-"
                     for key in ("time_exponent", "memory_exponent")]
        rows.append((f"`{name}`", f"{row['tokens'][-1]:,}", f"{1e3 * row['seconds'][-1]:.1f}",
                     f"{row['peak'][-1] / 2**20:.1f}", *exponents))
    return table(("mechanism", "N", "ms", "MiB", "time grows as", "memory grows as"), rows)
