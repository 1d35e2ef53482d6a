"""From the settings of a training to its data, its model and its objective."""
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from vitrail.core.catalogue import find, variant_of
from vitrail.core.errors import SettingsError
from vitrail.core.task import Options
from vitrail.data.open import open_dataset
from vitrail.data.split import Splits, split
from vitrail.data.transforms import evaluation_transform, training_transform
from vitrail.models import create_model, load_model, save_model
from vitrail.tasks.classification.settings import ClassificationSettings
from vitrail.tasks.classification.answers import example_inputs
from vitrail.tasks.classification.model import Classifier
from vitrail.tasks.classification.objective import ClassificationObjective


def check(settings: ClassificationSettings) -> None:
    """Raises ModelError or SettingsError where the model cannot be built so, or refuses the run's images.

    Neither weights nor images are read, and no numbers are computed: the model is built of shapes alone.
    """
    find(settings.model.name, "backbone")
    if settings.teacher and not Path(settings.teacher).is_dir():
        raise SettingsError(f"the setting 'teacher' is {settings.teacher!r}, and there is no such folder: "
                            "give that of a saved model or of a run")
    with torch.device("meta"), torch.no_grad():
        model = build_student(settings.updated(weights=""), ("one", "another"))
        height, width = model.config.spec.preprocessing.size
        try:
            model(example_inputs(model.config, 2).to("meta"))
        except (RuntimeError, ValueError) as e:
            raise SettingsError(f"{settings.model.name} with {settings.model.arguments()} takes no images of "
                                f"{height} x {width}: {e}") from e


def open_splits(settings: ClassificationSettings) -> Splits:
    """The images to learn from and those held out, as the settings name them. Raises SettingsError where both are one
    data set, DataError for one that cannot be read or whose classes do not fit."""
    data = settings.data
    if data.val and _same(data.val, data.source):
        raise SettingsError(f"val is {data.val!r}, the very data that are learned from: leave it out, "
                            "and a part of them is held out, the one that they name or a share of each class")
    dataset = open_dataset(data.source, on_error=data.on_error)
    if not data.val:
        return split(dataset, fraction=data.val_fraction, seed=settings.training.seed)
    val = open_dataset(data.val, on_error=data.on_error, classes=dataset.classes)
    return Splits(train=dataset, val=val, record={"how": "named", "train": data.source, "val": data.val})


def _same(one: str, other: str) -> bool:
    if one == other:
        return True
    try:
        return os.path.samefile(os.path.expanduser(one), os.path.expanduser(other))
    except (OSError, ValueError):
        return False


def open_for_model(text: str, options: Options, spec: Any, *, split: str = "") -> Any:
    """A data set with the model's classes."""
    return open_dataset(text, on_error=options.on_error, classes=spec.labels if spec else None, split=split or None)


def build_student(settings: ClassificationSettings, classes: tuple[str, ...]) -> Classifier:
    """The model that the settings name, with the preprocessing that the run will use."""
    asked = settings.model
    side = settings.data.size
    arguments = asked.arguments()
    if side and arguments.get("image", side) != side:
        raise SettingsError(f"size is {side}, and --set builds the model for image={arguments['image']}: leave out one "
                            "of them")
    if side and "image" in variant_of(asked.name).settings():
        arguments.setdefault("image", side)
    model = create_model(asked.name, task="classification", labels=classes, weights=asked.weights or None,
                         keys=asked.keys, inside=asked.inside, resize=bool(asked.weights),
                         head="fresh" if asked.new_head else "", mixer=asked.mixer, **arguments)
    assert isinstance(model, Classifier)
    spec = model.config.spec
    size = (side, side) if side else spec.preprocessing.size
    preprocessing = replace(spec.preprocessing, size=size, crop=settings.data.crop)
    model.config = replace(model.config, spec=replace(spec, preprocessing=preprocessing))
    return model


def make_objective(settings: ClassificationSettings, splits: Splits) -> ClassificationObjective:
    """Classification on these images, told by these settings. Raises SettingsError where they do not go together."""
    preprocessing = build_student(settings, splits.train.classes).config.spec.preprocessing
    training = settings.training
    return ClassificationObjective(
        build=lambda: build_student(settings, splits.train.classes), train=splits.train, val=splits.val,
        training=training_transform(preprocessing, settings.augmentation),
        evaluation=evaluation_transform(preprocessing),
        save=lambda model, folder: save_model(model, folder, overwrite=True), loss=settings.loss, seed=training.seed,
        batch=training.batch, workers=training.workers, accumulate=training.accumulate, record=splits.record,
        on_error=settings.data.on_error, teacher=load_model(settings.teacher) if settings.teacher else None)


def about(settings: ClassificationSettings, splits: Splits) -> str:
    """What is trained on what, in a line."""
    data = settings.data
    held = {"stratified": f"{data.val_fraction:g} of each class, seed {settings.training.seed}", "named": data.val}
    taught = f", taught by {settings.teacher}" if settings.teacher else ""
    mixed = f" with {settings.model.mixer}" if settings.model.mixer else ""
    return (f"{settings.model.name}{mixed} on {data.source}{taught}: {len(splits.train):,} images of "
            f"{len(splits.train.classes):,} classes to learn from, {len(splits.val):,} held out "
            f"({held.get(splits.record['how'], 'the split that the data name')})")
