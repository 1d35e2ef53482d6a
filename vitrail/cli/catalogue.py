"""`vitrail list, show, diff`: what is known of the models. Lists come from the table, without torch."""
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from vitrail.cli import describe, show
from vitrail.cli.command import Command
from vitrail.core import catalogue, lineage
from vitrail.core.catalogue import Entry
from vitrail.core.errors import ModelError, SettingsError, did_you_mean


def _list(a: Namespace) -> int:
    known = catalogue.entries().values()
    _known("kind", a.kind, set(catalogue.KINDS))
    _known("task", a.task, {t for e in known for t in e.tasks})
    pattern = a.pattern if any(c in a.pattern for c in "*?[") else f"*{a.pattern}*"
    kind = a.kind or ("backbone" if pattern == "*" and not a.task else "")
    found = catalogue.search(pattern, kind=kind, task=a.task)
    if not found:
        raise ModelError(f"nothing matches {a.pattern!r}.{did_you_mean(a.pattern, catalogue.entries())} "
                         "`vitrail list` shows all models, --kind attention, position and foundation the rest.")
    if a.json:
        show.emit([asdict(e) for e in found])
        return 0
    kinds = [k for k in catalogue.KINDS if any(e.kind == k for e in found)]
    for k in kinds:
        if k != kinds[0]:
            show.say()
        _table(k, [e for e in found if e.kind == k])
    if sys.stdout.isatty():
        show.say("\n" + "\n".join(_FOOT[k].format(sum(e.kind == k for e in found)) for k in kinds))
        if others := [k for k in catalogue.KINDS if k != kind] if kind and not a.kind else []:
            counts = ", ".join(f"{len(catalogue.names(k))} under --kind {k}" for k in others)
            show.say(f"There are also {counts}.")
    return 0


_FOOT = {"backbone": "{} models. GFLOPs are 1e9 multiply-adds at `size` pixels a side; 1,000 classes.",
         "foundation": "{} models of text. GFLOPs are 1e9 multiply-adds for a text of `length` tokens.",
         "attention": "{} mechanisms. Orders are the papers', in the number of tokens N; `vitrail bench attention` "
                      "measures them. `mixer`: whether vitrail train --mixer takes it.",
         "position": "{} position codes."}


def _table(kind: str, found: list[Entry]) -> None:
    """The entries of one kind, with what matters of that kind."""
    def paper(e: Entry) -> str:
        return f"{e.paper} ({e.year}{f', arXiv:{e.arxiv}' if e.arxiv else ''})"

    if kind == "attention":
        rows = [(e.name, e.takes, e.time, e.memory, "yes" if e.mixes else "no", paper(e)) for e in found]
        show.table(("name", "takes", "time", "memory", "mixer", "paper"), rows)
    elif kind == "position":
        show.table(("name", "enters", "learned", "paper"),
                   [(e.name, e.enters, "yes" if e.learned else "no", paper(e)) for e in found])
    else:
        size = "size" if kind == "backbone" else "length"
        show.table(("name", "params", "GFLOPs", size, "paper"),
                   [(e.name, show.millions(e.params), f"{e.gflops:.2f}", e.image or e.length, paper(e)) for e in found],
                   right=("params", "GFLOPs", size))


def _known(what: str, given: str, known: set[str]) -> None:
    if given and given not in known:
        raise SettingsError(f"there is no {what} {given!r}.{did_you_mean(given, known)} "
                            f"There are: {', '.join(sorted(known))}.")


def _show(a: Namespace) -> int:
    entry = catalogue.find(a.name)
    if not a.json:
        show.say(f"{entry.name}\n{entry.paper} ({entry.year}){f', arXiv:{entry.arxiv}' if entry.arxiv else ''}\n"
                 f"{_in_short(entry)}vitrail.{entry.module}")
        sys.stdout.flush()                                      # the rest imports the paper's module, and so torch
    found, paper = catalogue.entry_of(a.name), catalogue.paper_of(a.name)
    if a.json:
        show.emit({**asdict(entry), "paper": asdict(paper), "citation": paper.cite(), **describe.as_json(found)})
        return 0
    show.say(f"\ncite       {paper.cite()}")
    if paper.code:
        show.say(f"code       github.com/{paper.code}" + (f" ({paper.license})" if paper.license else ""))
    show.say(f"builds on  {', '.join(idea.of for idea in paper.ideas) or 'no other paper'}")
    show.say(f"imports    {', '.join(paper.builds_on) or 'no other paper'}")
    describe.say(found)
    return 0


def _in_short(e: Entry) -> str:
    if e.kind == "attention":
        return f"a mechanism over {e.takes}, time {e.time}, memory {e.memory}, "
    if e.kind == "position":
        return f"a position code, {e.enters}, "
    where = f"{e.image} x {e.image}" if e.image else f"{e.length} tokens"
    return f"{e.params:,} parameters, {e.gflops:.3f} GFLOPs at {where}, "


def _diff(a: Namespace) -> int:
    one, two = catalogue.find(a.one), catalogue.find(a.two)
    told = ("kind", "module", "paper", "year", "params", "gflops", "image", "length", "takes", "time", "memory",
            "enters")
    figures = [(n, getattr(one, n), getattr(two, n)) for n in told]
    figures += [("builds_on", _ideas(one), _ideas(two)),
                ("imports", ", ".join(one.builds_on) or "-", ", ".join(two.builds_on) or "-")]
    first, second = (describe.arguments(catalogue.entry_of(n)) for n in (a.one, a.two))
    names = [*first, *(n for n in second if n not in first)]
    arguments = [(n, first.get(n, _NONE), second.get(n, _NONE)) for n in names]
    if a.json:
        show.emit({"one": a.one, "two": a.two, "figures": _changed(figures), "arguments": _changed(arguments),
                   "same": [n for n, x, y in arguments if x == y]})
        return 0
    rows = [(n, x, y) for n, x, y in figures if x != y] + [(n, _said(x), _said(y)) for n, x, y in arguments if x != y]
    if rows:
        show.table(("", a.one, a.two), rows)
    else:
        show.say(f"{a.one} and {a.two} differ in nothing that the catalogue or their arguments tell")
    if same := [f"{n}={_said(x)}" for n, x, y in arguments if x == y]:
        show.say(f"\nthe same: {', '.join(same)}")
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


def _list_arguments(p: ArgumentParser) -> None:
    p.add_argument("pattern", nargs="?", default="*", metavar="PATTERN",
                   help="part of a name, or a shell pattern: 'vit_s*'")
    p.add_argument("--task", default="", help="classification, ...")
    p.add_argument("--kind", default="", help="backbone, foundation, attention, position")


def _name_argument(p: ArgumentParser) -> None:
    p.add_argument("name", metavar="NAME", help="a name that `vitrail list` shows")


def _diff_arguments(p: ArgumentParser) -> None:
    p.add_argument("one", metavar="A")
    p.add_argument("two", metavar="B")


COMMANDS = {
    "list": Command(about="The models, mechanisms and position codes, with what they cost.", run=_list,
                    arguments=_list_arguments),
    "show": Command(about="One of them: its paper, figures, arguments, and released weights with their licences.",
                    run=_show, arguments=_name_argument),
    "diff": Command(about="What differs between two models: figures, papers, arguments.", run=_diff,
                    arguments=_diff_arguments),
}
