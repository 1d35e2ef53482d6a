"""`vitrail tree`: what a paper builds on, and what its file imports; as text from the table, or as a picture."""
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vitrail.cli.command import Command
from vitrail.cli.opening import check_free
from vitrail.cli.options import Overwrites
from vitrail.cli.output import print_json, print_line
from vitrail.core import catalogue, lineage
from vitrail.core.card import Idea
from vitrail.core.errors import SettingsError
from vitrail.core.files import write_file
from vitrail.core.settings import setting

_BY_IDEAS = "builds on, as ideas [where the paper says so]"


@dataclass(frozen=True, kw_only=True)
class Settings(Overwrites):
    """Whose papers, and how they are shown."""

    name: str = setting("", positional=True, metavar="NAME", help="a name that `vitrail list` shows, or one "
                                                                   "that this tree shows")
    down: bool = setting(False, help="the papers that build on it too, at any remove")
    picture: str = setting("", metavar="FILE.png", help="draw it instead, years from left to right; without NAME: all "
                                                        "papers")


def run(a: Settings, *, json: bool) -> int:
    if a.picture:
        return _picture(a, json=json)
    if not a.name:
        raise SettingsError("vitrail tree needs a NAME that `vitrail list` shows, or --picture FILE.png for all of "
                            "them")
    key = _key(a.name)
    root = {**_paper(key), "builds_on": _ancestors(key, {key}), "imports": _imports(key),
            "built_on_by": list(lineage.followers()[key]), "imported_by": list(lineage.importers()[key])}
    descendants = _descendants(key, {key}) if a.down else []
    if json:
        print_json({"name": a.name, **root, **({"descendants": descendants} if a.down else {})})
        return 0
    print_line(f"{a.name}: {key}  {_cited(root)}")
    if "." in key:
        _section(_BY_IDEAS, root["builds_on"], "builds_on")
        _section("its file imports", root["imports"], "imports")
    else:
        print_line("It has no file here, so nothing is known of what it builds on.")
    if a.down:
        _section("built on by, as ideas [where they say so]", descendants, "built_on_by")
    else:
        print_line(f"\nbuilt on by: {', '.join(root['built_on_by']) or 'no other paper here'}")
    if root["imported_by"]:
        print_line(f"\nimported by: {', '.join(root['imported_by'])}")
    return 0


def _key(name: str) -> str:
    """The key in the lineage of a name of the catalogue, of a module ("backbones.vit"), or of an ancestor ("unet").
    Raises ModelError where it is none of these."""
    if name not in catalogue.entries() and name in lineage.papers():
        return name
    return catalogue.find(name).module


def _picture(a: Settings, *, json: bool) -> int:
    check_free(a.picture, overwrite=a.overwrite)
    from vitrail.report import lineage as drawing
    from vitrail.figures.style import png

    focus = _key(a.name) if a.name else ""
    nodes = drawing.relatives(drawing.papers(), focus) if focus else drawing.overview()
    title = f"What {a.name} builds on, and what builds on it" if a.name else "What builds on what"
    write_file(a.picture, png(drawing.picture(nodes, title, focus=focus)), overwrite=a.overwrite)
    lines = drawing.edges(nodes, focus=focus)
    if json:
        print_json({"picture": a.picture, "papers": sorted(nodes),
                   "edges": [{"of": old, "by": new, "kind": kind} for (old, new), kind in sorted(lines.items())]})
    else:
        print_line(f"{a.picture}: {len(nodes)} papers, {len(lines)} lines of descent between them")
    return 0


def _ancestors(key: str, printed: set[str]) -> list[dict[str, Any]]:
    """The papers that one builds on, each with its own under builds_on where it comes up for the first time."""
    return [_branch(idea.of, idea, "builds_on", printed, _ancestors) for idea in lineage.papers()[key].ideas]


def _descendants(key: str, printed: set[str]) -> list[dict[str, Any]]:
    """The papers that build on one, each with those that build on it where it comes up for the first time."""
    papers = lineage.papers()
    return [_branch(user, idea, "built_on_by", printed, _descendants)
            for user in lineage.followers()[key] for idea in papers[user].ideas if idea.of == key]


def _branch(key: str, idea: Idea, below: str, printed: set[str],
            grow: Callable[[str, set[str]], list[dict[str, Any]]]) -> dict[str, Any]:
    branch = {**_paper(key), "what": idea.what, "source": idea.source, "repeated": key in printed}
    if key in printed:
        return {**branch, below: []}
    printed.add(key)
    return {**branch, below: grow(key, printed)}


def _imports(key: str) -> list[dict[str, Any]]:
    """The modules that a paper's file imports, each with those that it imports."""
    return [{**_paper(module), "imports": _imports(module)} for module in lineage.papers()[key].builds_on]


def _paper(key: str) -> dict[str, Any]:
    paper = lineage.papers()[key]
    return {"module": key, "paper": paper.title, "year": paper.year, "arxiv": paper.arxiv}


def _cited(branch: dict[str, Any]) -> str:
    where = f", arXiv:{branch['arxiv']}" if branch["arxiv"] else ""
    return f"{branch['paper']} ({branch['year']}{where})"


def _section(title: str, branches: list[dict[str, Any]], below: str) -> None:
    print_line(f"\n{title}:{'' if branches else ' nothing of another paper'}")
    _branches(branches, below)


def _branches(branches: list[dict[str, Any]], below: str, before: str = "") -> None:
    for at, branch in enumerate(branches):
        last = at == len(branches) - 1
        taken = f": {branch['what']} [{branch['source']}]" if "what" in branch else ""
        cited = "(above)" if branch.get("repeated") else _cited(branch)
        print_line(f"{before}{'└── ' if last else '├── '}{branch['module']}{taken}  {cited}")
        _branches(branch[below], below, before + ("    " if last else "│   "))


COMMAND = Command(about="The papers that a model builds on, with where it says so, those that build on it, and what "
                        "its file imports.", settings=Settings, run=run)
