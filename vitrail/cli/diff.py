"""`vitrail diff`: what differs between two models."""
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from vitrail.cli import describe
from vitrail.cli.command import Command
from vitrail.cli.output import print_json, print_line, table
from vitrail.core import catalogue, lineage
from vitrail.core.catalogue import Entry
from vitrail.core.settings import Checked, setting


@dataclass(frozen=True, kw_only=True)
class Settings(Checked):
    """Which two."""

    one: str = setting(positional=True, metavar="A", help="a name that `vitrail list` shows")
    two: str = setting(positional=True, metavar="B", help="another")


def run(a: Settings, *, json: bool) -> int:
    one, two = catalogue.find(a.one), catalogue.find(a.two)
    told = ("kind", "module", "paper", "year", "params", "gflops", "image", "length", "takes", "time", "memory",
            "enters")
    figures = [(n, getattr(one, n), getattr(two, n)) for n in told]
    figures += [("builds_on", _ideas(one), _ideas(two)),
                ("imports", ", ".join(one.builds_on) or "-", ", ".join(two.builds_on) or "-")]
    first, second = (describe.arguments(catalogue.entry_of(n)) for n in (a.one, a.two))
    names = [*first, *(n for n in second if n not in first)]
    arguments = [(n, first.get(n, _NONE), second.get(n, _NONE)) for n in names]
    if json:
        print_json({"one": a.one, "two": a.two, "figures": _changed(figures), "arguments": _changed(arguments),
                    "same": [n for n, x, y in arguments if x == y]})
        return 0
    rows = [(n, x, y) for n, x, y in figures if x != y] + [(n, _said(x), _said(y)) for n, x, y in arguments if x != y]
    if rows:
        table(("", a.one, a.two), rows)
    else:
        print_line(f"{a.one} and {a.two} differ in nothing that the catalogue or their arguments tell")
    if same := [f"{n}={_said(x)}" for n, x, y in arguments if x == y]:
        print_line(f"\nthe same: {', '.join(same)}")
    return 0


def _ideas(entry: Entry) -> str:
    return ", ".join(idea.of for idea in lineage.papers()[entry.module].ideas) or "-"


class _Absent:
    def __str__(self) -> str:
        return "(no such argument)"


_NONE = _Absent()


def _said(value: Any) -> str:
    return str(value) if value is _NONE else repr(value)


def _changed(rows: Iterable[tuple[str, Any, Any]]) -> dict[str, dict[str, Any]]:
    sides = {n: {"one": x, "two": y} for n, x, y in rows if x != y}
    return {n: {side: v for side, v in both.items() if v is not _NONE} for n, both in sides.items()}


COMMAND = Command(about="What differs between two models: figures, papers, arguments.", settings=Settings, run=run)
