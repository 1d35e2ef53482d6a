"""`vitrail evaluate`: a model's scores on data with known answers, each with its interval."""
from dataclasses import dataclass
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING

from vitrail.cli.command import Command
from vitrail.cli.opening import check_files, check_free, check_model, open_model, optimised, place
from vitrail.cli.options import FromModel, OnDevice, Optimized, Overwrites, SkipsErrors, batch
from vitrail.cli.output import log, plain, print_json, print_line, table
from vitrail.core.errors import SettingsError
from vitrail.core.settings import like, setting
from vitrail.core.task import Options, Task, task_of
from vitrail.training.settings import TrainSettings

if TYPE_CHECKING:
    from vitrail.core.results import Evaluation

SHOWN = 20              # of what was left out; --out lists it all


@dataclass(frozen=True, kw_only=True)
class Settings(Overwrites, SkipsErrors, OnDevice, Optimized, FromModel):
    """What is scored, on what."""

    RENAMED = {"part": ("split", "0.2")}

    data: str = setting("", positional=True, metavar="DATA", help="what `vitrail train --data` takes: digits, a folder "
                                                                  "of class folders, a .csv, hf:..., wds:...")
    held_out_of_run: bool = setting(False, help="the samples that the run held out, once they are known to be the same")
    split: str = setting("", metavar="train|val|test", help="that split of data that are divided")
    batch: int = batch(64)
    workers: int = like(TrainSettings, "workers", help="processes that read samples")
    out: str = setting("", metavar="FILE.json", help="write everything there: scores, each sample's answer")
    html: str = setting("", metavar="FILE.html", help="write the report, a page of its own")


def run(a: Settings, *, json: bool) -> int:
    check_model(a.model, a.weights)
    if bool(a.data) == a.held_out_of_run:
        raise SettingsError("evaluate takes either DATA, or --held-out-of-run for the samples that a run held out")
    if a.data and ":" not in a.data and "/" in a.data:
        check_files([a.data])
    for target in (a.out, a.html):
        check_free(target, overwrite=a.overwrite)
    model, device = open_model(a), place(a)
    from vitrail.core.files import write_file
    from vitrail.recipes.train import held_out
    from vitrail.training.metadata import read_metadata, trained_on

    task = task_of(model.config)
    folder = Path(a.model).expanduser()
    options = Options(batch=a.batch, workers=a.workers, device=device, on_error=a.on_error)
    if a.held_out_of_run:
        dataset = held_out(task, folder)
    else:
        dataset = task.open(a.data, options, model.config.spec, split=a.split)
        if learned := trained_on(read_metadata(folder), dataset):
            log(f"the run learned from {learned:,} of these {len(dataset):,} samples, which flatters it: "
                "--held-out-of-run takes those that it did not")
    evaluation: Evaluation = task.evaluate(optimised(model, a.optimize, device), dataset, options)
    if a.out:
        write_file(a.out, dumps(plain(evaluation.to_json()), indent=1) + "\n", overwrite=a.overwrite)
    if a.html:
        from vitrail.report.build import write_report
        write_report(folder, model.cpu(), evaluation, dataset, path=Path(a.html).expanduser())
    if json:
        print_json({k: v for k, v in evaluation.to_json().items() if k != "predictions"})
    else:
        _print_scores(task, evaluation)
    for path in filter(None, (a.out, a.html)):
        log(f"wrote {path}")
    return 0


def _print_scores(task: Task, evaluation: "Evaluation") -> None:
    """The scores as a table, and what was left out."""
    print_line(evaluation.about)
    rows = []
    for name, score in evaluation.scores.items():
        metric = task.metric(name)
        rows.append((metric.label, metric.value(score), metric.interval(score)))
    table(("score", "value", "95 % interval"), rows, right=("value",))
    for excluded in evaluation.excluded[:SHOWN]:
        log(f"left out: {excluded.key}: {excluded.why}")
    if len(evaluation.excluded) > SHOWN:
        log(f"... and {len(evaluation.excluded) - SHOWN} more left out; --out FILE.json lists them all")


COMMAND = Command(about="Scores a model on data with known answers, each number with its 95 % interval.",
                  settings=Settings, run=run)
