"""`vitrail compare`: several mechanisms in one backbone, under one budget."""
import json
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from vitrail.cli import parse, show
from vitrail.cli.command import Command
from vitrail.core.files import write_file
from vitrail.recipes.compare_settings import CompareSettings

USAGE = "vitrail compare --out FOLDER [--mixers A B ...] [--settings FILE.toml] [--NAME VALUE | NAME=VALUE] ..."


def _parse(name: str, words: Sequence[str]) -> Namespace | None:
    if any(w in ("-h", "--help") for w in words) or not words:
        show.say(parse.page(CompareSettings, usage=USAGE))
        return None
    settings, common = parse.read(CompareSettings, words, command=name)
    return Namespace(task=settings, json=common.json)


def _compare(a: Namespace | None) -> int:
    if a is None:
        return 0
    settings: CompareSettings = a.task
    from vitrail.recipes import compare, compare_pages
    from vitrail.figures.style import png

    found, folder = compare.run(settings, log=show.note), Path(settings.out)
    told = {"settings": settings.resolved(), "mixers": [c.to_json() for c in found]}
    write_file(folder / "compare.json", json.dumps(told, indent=1) + "\n", overwrite=True)
    write_file(folder / "compare.md", compare_pages.page(found, settings), overwrite=True)
    write_file(folder / "compare.png", png(compare_pages.plot(found)), overwrite=True)
    if a.json:
        show.emit(told)
        return 0
    show.table(compare_pages.HEAD, compare_pages.cells(found), right=compare_pages.NUMBERS)
    show.say(f"\n{compare_pages.note(settings)}\n{folder / 'compare.md'}, {folder / 'compare.png'}")
    return 0


COMMANDS = {"compare": Command(about="Trains several mechanisms in one backbone under one budget, and compares them.",
                               run=_compare, parse=_parse)}
