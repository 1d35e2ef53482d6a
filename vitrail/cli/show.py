"""`vitrail show`: one model, mechanism or position code: paper, figures, arguments, released weights."""
import sys
from dataclasses import asdict, dataclass

from vitrail.cli import describe
from vitrail.cli.command import Command
from vitrail.cli.output import print_json, print_line
from vitrail.core import catalogue
from vitrail.core.catalogue import Entry
from vitrail.core.settings import Checked, setting


@dataclass(frozen=True, kw_only=True)
class Settings(Checked):
    """Which one."""

    name: str = setting(positional=True, metavar="NAME", help="a name that `vitrail list` shows")


def run(a: Settings, *, json: bool) -> int:
    entry = catalogue.find(a.name)
    if not json:
        print_line(f"{entry.name}\n{entry.paper} ({entry.year}){f', arXiv:{entry.arxiv}' if entry.arxiv else ''}\n"
                   f"{_in_short(entry)}vitrail.{entry.module}")
        sys.stdout.flush()                                      # the rest imports the paper's module, and so torch
    found, paper = catalogue.entry_of(a.name), catalogue.paper_of(a.name)
    if json:
        print_json({**asdict(entry), "paper": asdict(paper), "citation": paper.cite(), **describe.as_json(found)})
        return 0
    print_line(f"\ncite       {paper.cite()}")
    if paper.code:
        print_line(f"code       github.com/{paper.code}" + (f" ({paper.license})" if paper.license else ""))
    print_line(f"builds on  {', '.join(idea.of for idea in paper.ideas) or 'no other paper'}")
    print_line(f"imports    {', '.join(paper.builds_on) or 'no other paper'}")
    describe.say(found)
    return 0


def _in_short(e: Entry) -> str:
    if e.kind == "attention":
        return f"a mechanism over {e.takes}, time {e.time}, memory {e.memory}, "
    if e.kind == "position":
        return f"a position code, {e.enters}, "
    where = f"{e.image} x {e.image}" if e.image else f"{e.length} tokens"
    return f"{e.params:,} parameters, {e.gflops:.3f} GFLOPs at {where}, "


COMMAND = Command(about="One of them: its paper, figures, arguments, and released weights with their licences.",
                  settings=Settings, run=run)
