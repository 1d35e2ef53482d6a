"""From images with labels to a trained, evaluated and explained classifier: what `vitrail train` does."""
import json
import os
from dataclasses import replace
from pathlib import Path

import torch

from vitrail.core.catalogue import find, variant_of
from vitrail.core.errors import SettingsError
from vitrail.core.files import write_file
from vitrail.data.batches import Batches
from vitrail.data.open import open_source
from vitrail.data.settings import Augmentation
from vitrail.data.source import Source
from vitrail.data.split import Splits, split
from vitrail.data.transforms import evaluation_transform, training_transform
from vitrail.models import create_model, load_model, save_model
from vitrail.recipes.say import lead, tell
from vitrail.recipes.settings import ClassifySettings
from vitrail.report.build import write_report
from vitrail.tasks.classification.evaluate import Evaluation, evaluate
from vitrail.tasks.classification.model import Classifier
from vitrail.tasks.classification.settings import Distillation, Mixing, Objective
from vitrail.tasks.classification.task import ClassificationTask
from vitrail.train.distributed import pick_device
from vitrail.train.loop import fit
from vitrail.train.numerics import numerics
from vitrail.train.run import Run


def open_sides(settings: ClassifySettings) -> Splits:
    """The images to learn from and those held out, as the settings name them. Raises SettingsError where both are one
    data set, DataError for one that cannot be read or whose classes do not fit."""
    if settings.held_out and _same(settings.held_out, settings.data):
        raise SettingsError(f"held_out is {settings.held_out!r}, the very data that are learned from: leave it out, "
                            "and a part of them is held out, the one that they name or a share of each class")
    source = open_source(settings.data, on_error=settings.on_error)
    if not settings.held_out:
        return split(source, fraction=settings.fraction, seed=settings.seed)
    held = open_source(settings.held_out, on_error=settings.on_error, classes=source.classes)
    record = {"how": "named", "train": settings.data, "held_out": settings.held_out}
    return Splits(train=source, held_out=held, record=record)


def _same(one: str, other: str) -> bool:
    if one == other:
        return True
    try:
        return os.path.samefile(os.path.expanduser(one), os.path.expanduser(other))
    except (OSError, ValueError):
        return False


def build_student(settings: ClassifySettings, classes: tuple[str, ...]) -> Classifier:
    """The model that the settings name, with the preprocessing that the run will use."""
    changes = settings.changes()
    if settings.size and changes.get("image", settings.size) != settings.size:
        raise SettingsError(f"size is {settings.size}, and change builds the model for image={changes['image']}: "
                            "leave out one of them")
    if settings.size and "image" in variant_of(settings.model).settings():
        changes.setdefault("image", settings.size)
    model = create_model(settings.model, labels=classes, weights=settings.weights or None, keys=settings.keys,
                         inside=settings.inside, resize=bool(settings.weights),
                         head="fresh" if settings.new_head else "", mixer=settings.mixer, **changes)
    preprocessing = model.config.spec.preprocessing
    size = (settings.size, settings.size) if settings.size else preprocessing.size
    model.config = replace(model.config, preprocessing=replace(preprocessing, size=size, crop=settings.crop))
    return model


def check_student(settings: ClassifySettings) -> None:
    """Raises ModelError or SettingsError where the model cannot be built so, or refuses the run's images.

    Neither weights nor images are read, and no numbers are computed: the model is built of shapes alone.
    """
    with torch.device("meta"), torch.no_grad():
        model = build_student(replace(settings, weights=""), ("one", "another"))
        height, width = model.config.spec.preprocessing.size
        try:
            model(torch.empty(2, 3, height, width))
        except (RuntimeError, ValueError) as e:
            raise SettingsError(f"{settings.model} with {settings.changes()} takes no images of {height} x {width}: "
                                f"{e}") from e


def make_task(settings: ClassifySettings, sides: Splits) -> ClassificationTask:
    """Classification on these images, told by these settings. Raises SettingsError where they do not go together."""
    preprocessing = build_student(settings, sides.train.classes).config.spec.preprocessing
    seen = Augmentation(scale=(settings.crop_scale, 1.0), flip=settings.flip, randaugment_ops=settings.randaugment,
                        randaugment_magnitude=settings.magnitude, jitter=settings.jitter, erase=settings.erase)
    objective = Objective(
        smoothing=settings.smoothing, mixing=Mixing(mixup=settings.mixup, cutmix=settings.cutmix),
        distillation=Distillation(kind=settings.distillation, alpha=settings.alpha, temperature=settings.temperature))
    return ClassificationTask(
        build=lambda: build_student(settings, sides.train.classes), train=sides.train, held_out=sides.held_out,
        training=training_transform(preprocessing, seen), evaluation=evaluation_transform(preprocessing), loader=Batches,
        save=lambda model, folder: save_model(model, folder, overwrite=True), objective=objective, seed=settings.seed,
        batch=settings.batch, workers=settings.workers, accumulate=settings.accumulate, record=sides.record,
        on_error=settings.on_error, teacher=load_model(settings.teacher) if settings.teacher else None)


def run(settings: ClassifySettings) -> Path:
    """Trains, evaluates the finished model on what was held out, and writes RUN/evaluation.json and RUN/report.html.

    Returns the run's folder. Under torchrun every process calls it; the first one writes. Raises VitrailError.
    """
    find(settings.model, "backbone")                # what is wrong with the settings is found before data are read
    if settings.teacher and not Path(settings.teacher).is_dir():
        raise SettingsError(f"the setting 'teacher' is {settings.teacher!r}, and there is no such folder: "
                            "give that of a saved model or of a run")
    check_student(settings)
    Run.look(settings)
    sides = open_sides(settings)
    task = make_task(settings, sides)
    with Run.open(settings) as opened:
        if opened.finished:
            opened.check(task.describe())           # what is held out of other data may have been trained on
        tell(f"{opened.folder} is finished: nothing is trained" if opened.finished else _about(settings, sides))
        fit(task, settings, opened)
    folder = Path(settings.out)
    if lead():
        tell(f"evaluating on {len(sides.held_out):,} images, and writing the report")
        with numerics(settings):
            judge(folder, sides.held_out, workers=settings.workers, batch=settings.batch, on_error=settings.on_error,
                  device=pick_device(settings.device))
    return folder


def judge(run: Path, source: Source, *, batch: int = 64, workers: int = 0, on_error: str = "stop",
          device: torch.device | str = "cpu") -> Evaluation:
    """Evaluates a run's finished model on a source, and writes both pages of it."""
    model = load_model(run)
    found = evaluate(model, source, transform=evaluation_transform(model.config.spec.preprocessing), loader=Batches,
                     batch=batch, workers=workers, on_error=on_error, device=device)
    write_file(run / "evaluation.json", json.dumps(found.to_json(), indent=1).encode(), overwrite=True)
    write_report(run, model.cpu(), found, source)
    return found


def _about(settings: ClassifySettings, sides: Splits) -> str:
    """What is trained on what, in a line."""
    how = sides.record["how"]
    held = {"stratified": f"{settings.fraction:g} of each class, seed {settings.seed}", "named": settings.held_out}
    taught = f", taught by {settings.teacher}" if settings.teacher else ""
    mixed = f" with {settings.mixer}" if settings.mixer else ""
    return (f"{settings.model}{mixed} on {settings.data}{taught}: {len(sides.train):,} images of "
            f"{len(sides.train.classes):,} classes to learn from, {len(sides.held_out):,} held out "
            f"({held.get(how, 'the part that the data name')})")
