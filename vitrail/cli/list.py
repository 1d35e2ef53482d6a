"""`vitrail list`: the models, mechanisms and position codes, from the catalogue's table, without torch."""
import sys
from dataclasses import asdict, dataclass

from vitrail.cli.command import Command
from vitrail.cli.output import millions, print_json, print_line, table
from vitrail.core import catalogue
from vitrail.core.catalogue import Entry
from vitrail.core.errors import ModelError, SettingsError, did_you_mean
from vitrail.core.settings import Checked, setting
from vitrail.core.task import task_names


@dataclass(frozen=True, kw_only=True)
class Settings(Checked):
    """Which of them."""

    pattern: str = setting("*", positional=True, metavar="PATTERN", help="part of a name, or a shell pattern: 'vit_s*'")
    task: str = setting("", help="those for this task: " + ", ".join(task_names()))
    kind: str = setting("", help="backbone, foundation, attention, position")


def run(a: Settings, *, json: bool) -> int:
    known = catalogue.entries().values()
    _known("kind", a.kind, set(catalogue.KINDS))
    _known("task", a.task, {t for e in known for t in e.tasks})
    pattern = a.pattern if any(c in a.pattern for c in "*?[") else f"*{a.pattern}*"
    kind = a.kind or ("backbone" if pattern == "*" and not a.task else "")
    found = catalogue.search(pattern, kind=kind, task=a.task)
    if not found:
        raise ModelError(f"nothing matches {a.pattern!r}.{did_you_mean(a.pattern, catalogue.entries())} "
                         "`vitrail list` shows all models, --kind attention, position and foundation the rest.")
    if json:
        print_json([asdict(e) for e in found])
        return 0
    kinds = [k for k in catalogue.KINDS if any(e.kind == k for e in found)]
    for k in kinds:
        if k != kinds[0]:
            print_line()
        _table(k, [e for e in found if e.kind == k])
    if sys.stdout.isatty():
        print_line("\n" + "\n".join(_FOOT[k].format(sum(e.kind == k for e in found)) for k in kinds))
        if others := [k for k in catalogue.KINDS if k != kind] if kind and not a.kind else []:
            counts = ", ".join(f"{len(catalogue.names(k))} under --kind {k}" for k in others)
            print_line(f"There are also {counts}.")
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
        table(("name", "takes", "time", "memory", "mixer", "paper"), rows)
    elif kind == "position":
        table(("name", "enters", "learned", "paper"),
              [(e.name, e.enters, "yes" if e.learned else "no", paper(e)) for e in found])
    else:
        size = "size" if kind == "backbone" else "length"
        table(("name", "params", "GFLOPs", size, "paper"),
              [(e.name, millions(e.params), f"{e.gflops:.2f}", e.image or e.length, paper(e)) for e in found],
              right=("params", "GFLOPs", size))


def _known(what: str, given: str, known: set[str]) -> None:
    if given and given not in known:
        raise SettingsError(f"there is no {what} {given!r}.{did_you_mean(given, known)} "
                            f"There are: {', '.join(sorted(known))}.")


COMMAND = Command(about="The models, mechanisms and position codes, with what they cost.", settings=Settings, run=run)
