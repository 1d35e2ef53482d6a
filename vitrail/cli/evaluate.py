"""`vitrail evaluate`: a model's scores on labelled data, each with its interval."""
import json
from argparse import ArgumentParser, Namespace
from pathlib import Path

from vitrail.cli import show
from vitrail.cli.command import Command, add_batch, add_model, add_on_error, add_optimize, add_out, add_place, whole
from vitrail.cli.opening import check_free, check_images, check_model, open_model, optimised, place
from vitrail.core.errors import SettingsError
from vitrail.core.files import write_file
from vitrail.core.results import Evaluation
from vitrail.core.task import Options, Task, task_of

SHOWN = 20              # of what was left out; --out lists it all


def _evaluate(a: Namespace) -> int:
    check_model(a.model, a.weights)
    if bool(a.data) == a.held_out_of_run:
        raise SettingsError("evaluate takes either DATA, or --held-out-of-run for the samples that a run held out")
    if a.data and ":" not in a.data and "/" in a.data:
        check_images([a.data])
    for target in (a.out, a.html):
        check_free(target, overwrite=a.overwrite)
    model = open_model(a)
    device = place(a)
    from vitrail.recipes.train import held_out
    from vitrail.training.metadata import read_metadata, trained_on

    task = task_of(model.config)
    run = Path(a.model).expanduser()
    options = Options(batch=a.batch, workers=a.workers, device=device, on_error=a.on_error)
    if a.held_out_of_run:
        dataset = held_out(task, run)
    else:
        dataset = task.open(a.data, options, model.config.spec, split=a.split)
        if learned := trained_on(read_metadata(run), dataset):
            show.note(f"the run learned from {learned:,} of these {len(dataset):,} samples, which flatters it: "
                      "--held-out-of-run takes those that it did not")
    evaluation: Evaluation = task.evaluate(optimised(model, a, device), dataset, options)
    if a.out:
        write_file(a.out, json.dumps(show.plain(evaluation.to_json()), indent=1) + "\n", overwrite=a.overwrite)
    if a.html:
        from vitrail.report.build import write_report
        write_report(run, model.cpu(), evaluation, dataset, path=Path(a.html).expanduser())
    if a.json:
        show.emit({k: v for k, v in evaluation.to_json().items() if k != "predictions"})
    else:
        print_scores(task, evaluation)
    for path in filter(None, (a.out, a.html)):
        show.note(f"wrote {path}")
    return 0


def print_scores(task: Task, evaluation: Evaluation) -> None:
    """The scores as a table, and what was left out."""
    show.say(evaluation.about)
    rows = []
    for name, score in evaluation.scores.items():
        metric = task.metric(name)
        rows.append((metric.label, metric.value(score), metric.interval(score)))
    show.table(("score", "value", "95 % interval"), rows, right=("value",))
    for excluded in evaluation.excluded[:SHOWN]:
        show.note(f"left out: {excluded.key}: {excluded.why}")
    if len(evaluation.excluded) > SHOWN:
        show.note(f"... and {len(evaluation.excluded) - SHOWN} more left out; --out FILE.json lists them all")


def _arguments(p: ArgumentParser) -> None:
    add_model(p)
    p.add_argument("data", metavar="DATA", nargs="?", default="",
                   help="what `vitrail train --data` takes: digits, a folder of class folders, a .csv, hf:..., wds:...")
    p.add_argument("--held-out-of-run", action="store_true",
                   help="the samples that the run held out, once they are known to be the same")
    p.add_argument("--split", default="", metavar="train|val|test", help="that split of data that are divided")
    add_batch(p, 64)
    add_optimize(p)
    add_place(p)
    p.add_argument("--workers", type=whole(0, 1024), default=0, metavar="N", help="processes that read samples (0)")
    add_on_error(p)
    add_out(p, "FILE.json", "write everything there: scores, each sample's answer")
    p.add_argument("--html", default="", metavar="FILE.html", help="write the report, a page of its own")


COMMANDS = {"evaluate": Command(about="Scores a model on labelled data, each number with its 95 % interval.",
                                run=_evaluate, arguments=_arguments)}
