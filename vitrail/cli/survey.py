"""`vitrail survey`: what every backbone costs on this machine, beside the accuracy that is reported of it."""
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitrail.cli.command import Command
from vitrail.cli.output import log, pairs, print_json, print_line, table
from vitrail.evidence.survey.settings import SurveySettings

if TYPE_CHECKING:
    from collections.abc import Callable

ABOUT = """Measures parameters, operations, counted peak memory and throughput of every backbone that fits this
machine, and sets the accuracy that others report beside it: survey.md, survey.csv, survey.json, operations.png,
throughput.png in FOLDER.
Each model is measured in a process of its own. Stopped at any time, the same command goes on where it was."""


def run(settings: SurveySettings, *, json: bool) -> int:
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
        log(f"{sum(line.found is not None for line in lines)} of {len(lines)} models are measured and kept in "
            f"{settings.out}; the same command goes on")
        raise
    here = machine(torch.device("cpu"))
    written = survey_pages.write(lines, settings, here)
    if json:
        print_json(survey_pages.told(lines, settings, here))
        return 0
    titles = survey_pages.head(settings.batches)
    table(titles, survey_pages.cells(lines, settings.batches), right=[t for t in titles[1:] if t != "release"])
    if missing := survey_pages.left_out(lines):
        print_line("\nleft out")
        pairs(dict(missing), indent="  ")
    print_line(f"\n{survey_pages.note(lines)}\n{', '.join(str(Path(p)) for p in written)}")
    return 0


@contextmanager
def _told() -> "Iterator[Callable[[int, int, str], None]]":
    """How far it is: a bar on a terminal, under the lines; in a pipe a line a model."""
    if not sys.stderr.isatty():
        yield lambda done, of, text: log(f"{done}/{of} {text}")
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


COMMAND = Command(about=ABOUT, settings=SurveySettings, run=run)
