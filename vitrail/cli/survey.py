"""`vitrail survey`: what every backbone costs on this machine, beside the accuracy that is reported of it."""
import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitrail.cli import parse, show
from vitrail.cli.command import Command
from vitrail.evidence.survey.settings import SurveySettings

if TYPE_CHECKING:
    from collections.abc import Callable

USAGE = "vitrail survey --out FOLDER [--models 'swin*' vit_s16 ...] [--settings FILE.toml] [--NAME VALUE] ..."
ABOUT = """
Measures parameters, operations, counted peak memory and throughput of every backbone that fits this machine, and sets
the accuracy that others report beside it: survey.md, survey.csv, survey.json, operations.png, throughput.png in FOLDER.
Each model is measured in a process of its own. Stopped at any time, the same command goes on where it was.
"""


def _parse(name: str, words: Sequence[str]) -> Namespace | None:
    if any(w in ("-h", "--help") for w in words) or not words:
        usage, _, rest = parse.page(SurveySettings, usage=USAGE).partition("\n")
        show.say(f"{usage}\n{ABOUT}{rest}")
        return None
    settings, common = parse.read(SurveySettings, words, command=name)
    return Namespace(task=settings, json=common.json)


def _survey(a: Namespace | None) -> int:
    if a is None:
        return 0
    settings: SurveySettings = a.task
    import torch

    from vitrail.evidence.survey import run as survey
    from vitrail.evidence.survey import pages as survey_pages
    from vitrail.measure.machine import machine

    try:
        with _told() as tell:
            lines = survey.run(settings, tell=tell)
    except KeyboardInterrupt:
        lines = survey.look(settings)
        if any(line.found for line in lines):
            survey_pages.write(lines, settings, machine(torch.device("cpu")))
        show.note(f"{sum(line.found is not None for line in lines)} of {len(lines)} models are measured and kept in "
                  f"{settings.out}; the same command goes on")
        raise
    here = machine(torch.device("cpu"))
    written = survey_pages.write(lines, settings, here)
    if a.json:
        show.emit(survey_pages.told(lines, settings, here))
        return 0
    titles = survey_pages.head(settings.batches)
    show.table(titles, survey_pages.cells(lines, settings.batches), right=[t for t in titles[1:] if t != "release"])
    if missing := survey_pages.left_out(lines):
        show.say("\nleft out")
        show.pairs(dict(missing), indent="  ")
    show.say(f"\n{survey_pages.note(lines)}\n{', '.join(str(Path(p)) for p in written)}")
    return 0


@contextmanager
def _told() -> "Iterator[Callable[[int, int, str], None]]":
    """How far it is: a bar on a terminal, under the lines; in a pipe a line a model."""
    if not sys.stderr.isatty():
        yield lambda done, of, text: show.note(f"{done}/{of} {text}")
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns: Any = (TextColumn("surveying"), BarColumn(bar_width=None), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(file=sys.stderr)) as bar:
        task = bar.add_task("", total=None)

        def tell(done: int, of: int, text: str) -> None:
            bar.console.print(text, markup=False, highlight=False)
            bar.update(task, completed=done, total=of)
        yield tell


COMMANDS = {"survey": Command(about="What every backbone costs on this machine, beside its reported accuracy.",
                              run=_survey, parse=_parse)}
