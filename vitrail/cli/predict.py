"""`vitrail predict`: answers for inputs that nobody labelled."""
import csv
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vitrail.cli.command import Command
from vitrail.cli.opening import check_files, check_model, model_task, open_model, optimised, place
from vitrail.cli.options import FromModel, OnDevice, Optimized, SkipsErrors, batch
from vitrail.cli.output import log, print_json, table
from vitrail.core.errors import DataError, SettingsError
from vitrail.core.settings import setting
from vitrail.core.task import Options

if TYPE_CHECKING:
    from vitrail.core.results import Prediction


@dataclass(frozen=True, kw_only=True)
class Settings(SkipsErrors, OnDevice, Optimized, FromModel):
    """Which inputs, answered how."""

    inputs: tuple[str, ...] = setting(positional=True, metavar="FILE", help="images, or folders of them")
    csv: bool = setting(False, help="comma-separated values, a line an answer")
    top: int = setting(1, low=1, high=1 << 24, metavar="K", help="how many answers an input")
    batch: int = batch(32)


def run(a: Settings, *, json: bool) -> int:
    check_model(a.model, a.weights)
    if json and a.csv:
        raise SettingsError("predict prints --json or --csv, not both")
    predict = model_task(a).require("predict")
    if a.on_error == "stop":
        check_files(a.inputs)
    model, device = open_model(a), place(a)
    from vitrail.data.dataset import SKIP_HINT

    options = Options(batch=a.batch, device=device, top=a.top, on_error=a.on_error)
    files = [Path(text).expanduser() for text in a.inputs]
    try:
        predictions: list[Prediction] = list(predict(optimised(model, a.optimize, device), files, options))
    except DataError as e:
        raise DataError(f"{e}{SKIP_HINT}") from e
    if json:
        print_json({"model": model.config.model, "predictions": [p.to_json() for p in predictions]})
    else:
        _print(predictions, as_csv=a.csv)
    failed = [prediction for prediction in predictions if prediction.error is not None]
    for prediction in failed:
        log(f"left out: {prediction.error}")
    return 1 if failed and len(failed) == len(predictions) else 0


def _print(predictions: "list[Prediction]", *, as_csv: bool) -> None:
    """The answers as comma-separated values, or as a table."""
    rows = [(p, row) for p in predictions for row in (p.rows() if p.error is None else [{"file": p.key}])]
    columns = list(dict.fromkeys(name for _, row in rows for name in row))
    if as_csv:
        out = csv.writer(sys.stdout, lineterminator="\n")
        out.writerow([*columns, "error"])
        out.writerows([[*(row.get(name, "") for name in columns), p.error or ""] for p, row in rows])
        return
    answered = [[row.get(name, "") for name in columns] for p, row in rows if p.error is None]
    if answered:
        table(columns, answered, right=[name for name in columns if _is_number(answered[0][columns.index(name)])])


def _is_number(cell: str) -> bool:
    return cell.replace(".", "", 1).isdigit()


COMMAND = Command(about="Answers for inputs that nobody labelled.", settings=Settings, run=run)
