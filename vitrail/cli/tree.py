"""`vitrail tree`: what a paper builds on and what builds on it, as text from the table or as a picture."""
import importlib
from argparse import ArgumentParser, Namespace
from typing import Any

from vitrail.cli import show
from vitrail.cli.command import Command
from vitrail.cli.opening import check_free
from vitrail.core import catalogue
from vitrail.core.card import Paper
from vitrail.core.catalogue import Entry
from vitrail.core.errors import SettingsError
from vitrail.core.files import write_file


def _tree(a: Namespace) -> int:
    if a.picture:
        return _picture(a)
    if not a.name:
        raise SettingsError("vitrail tree needs a NAME that `vitrail list` shows, or --picture FILE.png for all of "
                            "them")
    entry = catalogue.find(a.name)
    tree, users = _ancestors(entry.module), _users(entry.module)
    if a.json:
        below = {"descendants": _descendants(entry.module)["built_on_by"]} if a.down else {}
        show.emit({"name": entry.name, **tree, "built_on_by": users, **below})
        return 0
    show.say(f"{entry.name}: {_described(tree)}")
    _branches(tree["builds_on"], "builds_on")
    if users:
        show.say(f"\nbuilt on by: {'' if a.down else ', '.join(users)}".rstrip())
    if a.down:
        _branches(_descendants(entry.module)["built_on_by"], "built_on_by")
    return 0


def _picture(a: Namespace) -> int:
    check_free(a.picture, overwrite=a.overwrite)
    from vitrail.report import genealogy
    from vitrail.figures.style import png

    nodes = genealogy.papers()
    if a.name:
        nodes = genealogy.relatives(nodes, catalogue.find(a.name).module)
    title = f"What {a.name} builds on, and what builds on it" if a.name else "What builds on what"
    write_file(a.picture, png(genealogy.picture(nodes, title)), overwrite=a.overwrite)
    lines = sorted(genealogy.edges(nodes))
    if a.json:
        show.emit({"picture": a.picture, "papers": sorted(nodes), "edges": lines})
    else:
        show.say(f"{a.picture}: {len(nodes)} papers, {len(lines)} lines of descent between them")
    return 0


def _users(module: str) -> list[str]:
    """The modules that build on this one."""
    return sorted({e.module for e in catalogue.entries().values() if module in e.builds_on})


def _ancestors(module: str) -> dict[str, Any]:
    """A module with its paper and, under builds_on, the same of those it builds on."""
    paper = _paper(module)
    return {**_line(module, paper), "builds_on": [_ancestors(m) for m in paper.builds_on]}


def _descendants(module: str) -> dict[str, Any]:
    """A module with its paper and, under built_on_by, the same of those that build on it."""
    return {**_line(module, _paper(module)), "built_on_by": [_descendants(m) for m in _users(module)]}


def _paper(module: str) -> Entry | Paper:
    line = next((e for e in catalogue.entries().values() if e.module == module), None)
    found: Entry | Paper = line or importlib.import_module(f"vitrail.{module}").PAPER
    return found


def _line(module: str, paper: Entry | Paper) -> dict[str, Any]:
    title = paper.paper if isinstance(paper, Entry) else paper.title
    return {"module": module, "paper": title, "year": paper.year, "arxiv": paper.arxiv}


def _described(tree: dict[str, Any]) -> str:
    where = f", arXiv:{tree['arxiv']}" if tree["arxiv"] else ""
    return f"{tree['module']}  {tree['paper']} ({tree['year']}{where})"


def _branches(trees: list[dict[str, Any]], key: str, before: str = "") -> None:
    for at, tree in enumerate(trees):
        last = at == len(trees) - 1
        show.say(f"{before}{'└── ' if last else '├── '}{_described(tree)}")
        _branches(tree[key], key, before + ("    " if last else "│   "))


def _tree_arguments(p: ArgumentParser) -> None:
    p.add_argument("name", nargs="?", default="", metavar="NAME", help="a name that `vitrail list` shows")
    p.add_argument("--down", action="store_true", help="the papers that build on it too, at any remove")
    p.add_argument("--picture", default="", metavar="FILE.png",
                   help="draw it instead, years from left to right; without NAME: all papers")
    p.add_argument("--overwrite", action="store_true", help="replace what is there")


COMMANDS = {"tree": Command(about="The papers that a model builds on, as its modules import them, and those that build "
                                  "on it.", run=_tree, arguments=_tree_arguments)}
