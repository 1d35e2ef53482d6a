"""`vitrail.train, evaluate, predict`: what the commands do, from Python, for models of any task."""
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitrail.core.errors import SettingsError, did_you_mean
from vitrail.core.results import Evaluation, Prediction
from vitrail.core.task import Options, task_for, task_of
from vitrail.models import config_of, load_model

if TYPE_CHECKING:
    from torch import nn


def train(model: str, data: str | Path, out: str | Path, *, task: str = "", **settings: Any) -> Path:
    """Trains a model by name on data, evaluates it on what was held out, and writes the report; the run's folder.

    data: as `vitrail train --data` takes it: a folder of class folders, a .csv, "digits", "hf:...", ... The same call
    goes on with a run that was stopped. settings: any that `vitrail train --help` lists (epochs=30, lr=1e-3).

    Raises SettingsError for a setting that is not one, or out of its range, and whatever the data or the run raise.

    >>> train("deit_ti16", "photos", "runs/first", epochs=30, size=64)      # doctest: +SKIP
    PosixPath('runs/first')
    """
    from vitrail.recipes.train import train as run

    chosen = task_for(model, task)
    return run(chosen, chosen.settings.of(
        {"model": model, "data": str(data), "out": str(out), "task": task, **settings}))


def evaluate(model: "nn.Module | str | Path", data: str | Path | None = None, *, split: str = "",
             **options: Any) -> Evaluation:
    """Scores a model on labelled data, each number with its 95 % interval.

    model: a model of vitrail's, or the folder of a run or of a saved model. data: as `vitrail evaluate` takes it; left
    out, what the run held out, once it is known to be the same. split: "train", "val" or "test", of divided data.
    options: batch, workers, device, on_error, seed (`core.task.Options`).

    >>> print(evaluate("runs/first").about)                                 # doctest: +SKIP
    deit_ti16 on photos: 312 images of 5 classes
    """
    from vitrail.recipes.train import held_out

    network = _loaded(model)
    task = task_of(config_of(network))
    chosen = _options(options)
    if data is None:
        if not isinstance(model, str | Path):
            raise SettingsError("evaluate takes the data to score on, or the folder of a run, which held some out")
        dataset = held_out(task, Path(model))
    else:
        dataset = task.open(str(data), chosen, config_of(network).spec, split=split)
    evaluation: Evaluation = task.evaluate(network, dataset, chosen)
    return evaluation


def predict(model: "nn.Module | str | Path", inputs: Any, **options: Any) -> Iterator[Prediction]:
    """Answers for inputs that nobody labelled, one by one as they are worked out.

    model: as for `evaluate`. inputs: paths, folders, arrays, PIL images, tensors, or a list of them. options: batch,
    top, device, on_error. Raises ModelError for a model whose task predicts nothing, DataError for what is not
    readable.

    >>> [p.label for p in predict("runs/first", ["a.jpg", "b.jpg"])]        # doctest: +SKIP
    ['cat', 'dog']
    """
    network = _loaded(model)
    answers: Iterator[Prediction] = task_of(config_of(network)).require("predict")(network, inputs, _options(options))
    return answers


def generate(model: "nn.Module | str | Path", prompts: Sequence[str] = (), *, device: Any = "cpu",
             **asked: Any) -> Iterator[Prediction]:
    """What a model writes or draws, for each prompt, or without one.

    asked: what its task takes (a translator beams=4; a model that goes on with texts tokens=80, temperature=0.8).

    >>> next(generate("runs/translator", ["the old cat sees a dog."])).answers     # doctest: +SKIP
    ('mira solda la kanom un vide.',)
    """
    network = _loaded(model)
    function = task_of(config_of(network)).require("generate")
    answers: Iterator[Prediction] = function(network, list(prompts), Options(device=device), asked)
    return answers


def _loaded(model: "nn.Module | str | Path") -> Any:
    return load_model(Path(model).expanduser()) if isinstance(model, str | Path) else model


def _options(given: dict[str, Any]) -> Options:
    """Raises SettingsError for an option that there is not."""
    known = Options.__dataclass_fields__
    for name in given:
        if name not in known:
            raise SettingsError(f"there is no option {name!r}.{did_you_mean(name, known)} There are: "
                                f"{', '.join(known)}.")
    return Options(**given)
