"""`vitrail list, show, tree, diff`: what is known of the models. Lists and trees come from the table, without torch."""
import importlib
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from vitrail.cli import show
from vitrail.cli.command import Command
from vitrail.core import catalogue
from vitrail.core.card import Paper
from vitrail.core.catalogue import Entry
from vitrail.core.errors import ModelError, SettingsError, nearest


def _list(a: Namespace) -> int:
    known = catalogue.entries().values()
    _known("kind", a.kind, {e.kind for e in known})
    _known("task", a.task, {t for e in known for t in e.tasks})
    pattern = a.pattern if any(c in a.pattern for c in "*?[") else f"*{a.pattern}*"
    found = catalogue.search(pattern, kind=a.kind, task=a.task)
    if not found:
        raise ModelError(f"no model matches {a.pattern!r}.{nearest(a.pattern, catalogue.entries())} "
                         "`vitrail list` shows all of them.")
    if a.json:
        show.emit([asdict(e) for e in found])
        return 0
    rows = [(e.name, show.millions(e.params), f"{e.gflops:.2f}", e.image, f"{e.paper} ({e.year}, arXiv:{e.arxiv})")
            for e in found]
    show.table(("name", "params", "GFLOPs", "size", "paper"), rows, right=("params", "GFLOPs", "size"))
    if sys.stdout.isatty():
        show.say(f"\n{len(found)} models. GFLOPs are 1e9 multiply-adds at `size` pixels a side; 1,000 classes.")
    return 0


def _known(what: str, given: str, known: set[str]) -> None:
    if given and given not in known:
        raise SettingsError(f"there is no {what} {given!r}.{nearest(given, known)} "
                            f"There are: {', '.join(sorted(known))}.")


def _show(a: Namespace) -> int:
    entry = catalogue.find(a.name)
    if not a.json:
        show.say(f"{entry.name}\n{entry.paper} ({entry.year}), arXiv:{entry.arxiv}\n"
                 f"{entry.params:,} parameters, {entry.gflops:.3f} GFLOPs at {entry.image} x {entry.image}, "
                 f"vitrail.{entry.module}")
        sys.stdout.flush()                                      # the rest imports the paper's module, and so torch
    found, paper = catalogue.variant_of(a.name), catalogue.paper_of(a.name)
    if a.json:
        show.emit({**asdict(entry), "paper": asdict(paper), "citation": paper.cite(), "arguments": found.settings(),
                   "reported": found.figures.reported, "reported_in": found.figures.where,
                   "weights": [asdict(w) for w in found.weights]})
        return 0
    show.say(f"\ncite       {paper.cite()}")
    if paper.code:
        show.say(f"code       github.com/{paper.code}" + (f" ({paper.license})" if paper.license else ""))
    show.say(f"builds on  {', '.join(paper.builds_on) or 'no other paper here'}")
    if found.figures.reported:
        reported = ", ".join(f"{k} {v:g}" for k, v in found.figures.reported.items())
        show.say(f"reported   {reported}" + (f" ({found.figures.where})" if found.figures.where else ""))
    show.say("\narguments  (create_model and --change take any of them)")
    show.pairs({k: repr(v) for k, v in found.settings().items()}, indent="  ")
    show.say("\nreleases" if found.weights else "\nno weights were released for it")
    for w in found.weights:
        score = "".join(f", {k} {v:g}" for k, v in w.reported.items())
        show.say(f"  {w.name}  {w.license}, {w.classes or 'no'} classes, {w.image} px, keys={w.keys}{score}\n"
                 f"    {w.source}")
    return 0


def _tree(a: Namespace) -> int:
    entry = catalogue.find(a.name)
    tree = _ancestors(entry.module)
    users = sorted({e.module for e in catalogue.entries().values() if entry.module in e.builds_on})
    if a.json:
        show.emit({"name": entry.name, **tree, "built_on_by": users})
        return 0
    show.say(f"{entry.name}: {_described(tree)}")
    _branches(tree["builds_on"], "")
    if users:
        show.say(f"\nbuilt on by: {', '.join(users)}")
    return 0


def _ancestors(module: str) -> dict[str, Any]:
    """A module with its paper and, under builds_on, the same of those it builds on."""
    line = next((e for e in catalogue.entries().values() if e.module == module), None)
    paper: Entry | Paper = line or importlib.import_module(f"vitrail.{module}").PAPER
    title = paper.paper if isinstance(paper, Entry) else paper.title
    return {"module": module, "paper": title, "year": paper.year, "arxiv": paper.arxiv,
            "builds_on": [_ancestors(m) for m in paper.builds_on]}


def _described(tree: dict[str, Any]) -> str:
    return f"{tree['module']}  {tree['paper']} ({tree['year']}, arXiv:{tree['arxiv']})"


def _branches(trees: list[dict[str, Any]], before: str) -> None:
    for at, tree in enumerate(trees):
        last = at == len(trees) - 1
        show.say(f"{before}{'└── ' if last else '├── '}{_described(tree)}")
        _branches(tree["builds_on"], before + ("    " if last else "│   "))


def _diff(a: Namespace) -> int:
    one, two = catalogue.find(a.one), catalogue.find(a.two)
    figures = [(n, getattr(one, n), getattr(two, n)) for n in ("module", "paper", "year", "params", "gflops", "image")]
    figures += [("builds_on", ", ".join(one.builds_on) or "-", ", ".join(two.builds_on) or "-")]
    first, second = (catalogue.variant_of(n).settings() for n in (a.one, a.two))
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
    p.add_argument("--kind", default="", help="backbone, ...")


def _name_argument(p: ArgumentParser) -> None:
    p.add_argument("name", metavar="NAME", help="a name that `vitrail list` shows")


def _diff_arguments(p: ArgumentParser) -> None:
    p.add_argument("one", metavar="A")
    p.add_argument("two", metavar="B")


COMMANDS = {
    "list": Command(about="The models, with what they cost.", run=_list, arguments=_list_arguments),
    "show": Command(about="One model: its paper, figures, arguments, and released weights with their licences.",
                    run=_show, arguments=_name_argument),
    "tree": Command(about="The papers that a model builds on, as its modules import them.", run=_tree,
                    arguments=_name_argument),
    "diff": Command(about="What differs between two models: figures, papers, arguments.", run=_diff,
                    arguments=_diff_arguments),
}
