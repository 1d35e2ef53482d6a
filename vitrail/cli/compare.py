"""`vitrail compare`: several mechanisms in one backbone, under one budget."""
from collections.abc import Sequence
from json import dumps
from pathlib import Path

from vitrail.cli import parse
from vitrail.cli.command import Command
from vitrail.cli.output import log, print_json, print_line, table
from vitrail.core.files import write_file
from vitrail.recipes.compare_settings import CompareSettings, settings_for


def _settings(words: Sequence[str]) -> type[CompareSettings]:
    return settings_for(parse.task_of(words).name)


def run(settings: CompareSettings, *, json: bool) -> int:
    from vitrail.figures.style import png
    from vitrail.recipes import compare, compare_pages

    compared, folder = compare.run(settings, log=log), Path(settings.out)
    record = {"settings": settings.resolved(), "mixers": [c.to_json() for c in compared]}
    write_file(folder / "compare.json", dumps(record, indent=1) + "\n", overwrite=True)
    write_file(folder / "compare.md", compare_pages.page(compared, settings), overwrite=True)
    write_file(folder / "compare.png", png(compare_pages.plot(compared, settings)), overwrite=True)
    if json:
        print_json(record)
        return 0
    columns = compare_pages.head(settings)
    table(columns, compare_pages.cells(compared, settings), right=(columns[1], *compare_pages.NUMBERS))
    print_line(f"\n{compare_pages.note(settings)}\n{folder / 'compare.md'}, {folder / 'compare.png'}")
    return 0


COMMAND = Command(about="Trains several mechanisms in one backbone under one budget, and compares them.",
                  settings=_settings, run=run)
