"""`vitrail predict`: answers for inputs that nobody labelled."""
import csv
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

from vitrail.cli import show
from vitrail.cli.command import Command, add_batch, add_model, add_on_error, add_optimize, add_place, whole
from vitrail.cli.opening import check_images, check_model, open_model, optimised, place
from vitrail.core.errors import DataError, SettingsError
from vitrail.core.results import Prediction
from vitrail.core.task import Options, task_of


def _predict(a: Namespace) -> int:
    check_model(a.model, a.weights)
    if a.json and a.csv:
        raise SettingsError("predict prints --json or --csv, not both")
    if a.on_error == "stop":
        check_images(a.inputs)
    model = open_model(a)
    device = place(a)
    from vitrail.data.dataset import SKIP_HINT

    predict = task_of(model.config).require("predict")
    options = Options(batch=a.batch, device=device, top=a.top, on_error=a.on_error)
    try:
        predictions: list[Prediction] = list(predict(optimised(model, a, device),
                                                     [Path(p).expanduser() for p in a.inputs], options))
    except DataError as e:
        raise DataError(f"{e}{SKIP_HINT}") from e
    _print(predictions, a, model.config.model)
    failed = [p for p in predictions if p.error is not None]
    for prediction in failed:
        show.note(f"left out: {prediction.error}")
    return 1 if failed and len(failed) == len(predictions) else 0


def _print(predictions: list[Prediction], a: Namespace, model: str) -> None:
    if a.json:
        show.emit({"model": model, "predictions": [p.to_json() for p in predictions]})
        return
    rows = [(p, row) for p in predictions for row in (p.rows() if p.error is None else [{"file": p.key}])]
    columns = list(dict.fromkeys(name for _, row in rows for name in row))
    if a.csv:
        out = csv.writer(sys.stdout, lineterminator="\n")
        out.writerow([*columns, "error"])
        out.writerows([[*(row.get(name, "") for name in columns), p.error or ""] for p, row in rows])
        return
    answered = [[row.get(name, "") for name in columns] for p, row in rows if p.error is None]
    if answered:
        show.table(columns, answered, right=[name for name in columns if _is_number(answered[0][columns.index(name)])])


def _is_number(cell: str) -> bool:
    return cell.replace(".", "", 1).isdigit()


def _arguments(p: ArgumentParser) -> None:
    add_model(p)
    p.add_argument("inputs", metavar="FILE", nargs="+", help="images, or folders of them")
    p.add_argument("--csv", action="store_true", help="comma-separated values, a line an answer")
    p.add_argument("--top", type=whole(1), default=1, metavar="K", help="how many answers an input (1)")
    add_batch(p, 32)
    add_optimize(p)
    add_place(p)
    add_on_error(p)


COMMANDS = {"predict": Command(about="Answers for inputs that nobody labelled.", run=_predict, arguments=_arguments)}
