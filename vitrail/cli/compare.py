"""`vitrail compare`: several mechanisms in one backbone, under one budget."""
from json import dumps
from pathlib import Path

from vitrail.cli.command import Command
from vitrail.cli.output import log, print_json, print_line, table
from vitrail.core.files import write_file
from vitrail.recipes.compare_settings import CompareSettings


def run(settings: CompareSettings, *, json: bool) -> int:
    from vitrail.recipes import compare, compare_pages
    from vitrail.figures.style import png

    found, folder = compare.run(settings, log=log), Path(settings.out)
    told = {"settings": settings.resolved(), "mixers": [c.to_json() for c in found]}
    write_file(folder / "compare.json", dumps(told, indent=1) + "\n", overwrite=True)
    write_file(folder / "compare.md", compare_pages.page(found, settings), overwrite=True)
    write_file(folder / "compare.png", png(compare_pages.plot(found)), overwrite=True)
    if json:
        print_json(told)
        return 0
    table(compare_pages.HEAD, compare_pages.cells(found), right=compare_pages.NUMBERS)
    print_line(f"\n{compare_pages.note(settings)}\n{folder / 'compare.md'}, {folder / 'compare.png'}")
    return 0


COMMAND = Command(about="Trains several mechanisms in one backbone under one budget, and compares them.",
                  settings=CompareSettings, run=run)
