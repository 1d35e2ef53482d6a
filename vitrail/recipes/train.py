"""From settings to a trained, judged and explained model: what `vitrail train` does, whatever the task."""
import json
from pathlib import Path
from typing import Any

from vitrail.core.errors import DataError
from vitrail.core.files import write_file
from vitrail.core.results import Evaluation
from vitrail.core.task import Options, Task
from vitrail.data.split import Splits
from vitrail.models import load_model
from vitrail.recipes.log import lead, log
from vitrail.report.build import write_report
from vitrail.training.distributed import pick_device
from vitrail.training.loop import fit
from vitrail.training.metadata import data_of, read_metadata
from vitrail.training.numerics import numerics
from vitrail.training.run import Run


def train(task: Task, settings: Any) -> Path:
    """Trains, evaluates the finished model on what was held out, and writes RUN/evaluation.json and RUN/report.html.

    Returns the run's folder. A run that was stopped goes on where it was; of a finished one the evaluation alone is
    done again. Under torchrun every process calls it; the first one writes. Raises VitrailError.
    """
    task.check(settings)                            # what is wrong with the settings is found before data are read
    Run.look(settings)
    splits: Splits = task.splits(settings)
    objective = task.objective(settings, splits)
    with Run.open(settings) as run:
        if run.finished:
            run.check(objective.describe())         # what is held out of other data may have been trained on
            log(f"{run.folder} is finished: nothing is trained")
        else:
            log(task.summary(settings, splits))
        fit(objective, settings.training, run)
    folder = Path(settings.out)
    if lead():
        log(f"evaluating on {len(splits.val):,} held-out samples, and writing the report")
        training = settings.training
        with numerics(training):
            options = Options(batch=training.batch, workers=training.workers, device=pick_device(training.device),
                              on_error=settings.data.on_error, seed=training.seed)
            evaluate(task, folder, splits.val, options, baselines=getattr(objective, "baselines", dict)())
    return folder


def evaluate(task: Task, run: Path, dataset: Any, options: Options,
             baselines: dict[str, dict[str, float]] | None = None) -> Evaluation:
    """Evaluates a run's finished model on a data set, and writes both pages of it.

    baselines: scores of simple ways to do the same, by what they are called.
    """
    model = load_model(run)
    evaluation: Evaluation = task.evaluate(model, dataset, options)
    page = run / "evaluation.json"
    judged = evaluation.to_json() | {"baselines": baselines or {}}
    write_file(page, json.dumps(judged, indent=1, ensure_ascii=False).encode(), overwrite=True)
    write_report(run, model.cpu(), evaluation, dataset)
    return evaluation


def held_out(task: Task, run: Path) -> Any:
    """The samples that a run held out, opened as the run did. Raises DataError where they are no longer the same."""
    if not (run / "settings.toml").is_file() or not (run / "run.json").is_file():
        raise DataError(f"{run} is not the folder of a run, which has settings.toml and run.json: name the DATA to "
                        "evaluate on")
    dataset = task.splits(task.settings.read(run / "settings.toml")).val
    then = data_of(read_metadata(run), "val").get("fingerprint")
    if then is None:
        raise DataError(f"{run / 'run.json'} does not say which samples were held out: name the DATA")
    if dataset.fingerprint() != then:
        raise DataError(f"{dataset.name} has changed since {run} was trained on it: what would be held out now may "
                        "have been trained on. Give back the old data, or name DATA that the model has not seen")
    return dataset
