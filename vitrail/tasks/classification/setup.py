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
from vitrail.data.settings import Augmentation
from vitrail.data.split import Splits, split
from vitrail.data.transforms import evaluation_transform, training_transform
from vitrail.models import create_model, load_model, save_model
from vitrail.tasks.classification.model import Classifier
from vitrail.tasks.classification.objective import ClassificationObjective
from vitrail.tasks.classification.settings import Distillation, Mixing, Objective


def check(settings: Any) -> None:
    """Raises ModelError or SettingsError where the model cannot be built so, or refuses the run's images.

    Neither weights nor images are read, and no numbers are computed: the model is built of shapes alone.
    """
    find(settings.model, "backbone")
    if settings.teacher and not Path(settings.teacher).is_dir():
        raise SettingsError(f"the setting 'teacher' is {settings.teacher!r}, and there is no such folder: "
                            "give that of a saved model or of a run")
    with torch.device("meta"), torch.no_grad():
        model = build_student(replace(settings, weights=""), ("one", "another"))
        height, width = model.config.spec.preprocessing.size
        try:
            model(torch.empty(2, settings.arguments().get("in_chans", 3), height, width))
        except (RuntimeError, ValueError) as e:
            raise SettingsError(f"{settings.model} with {settings.arguments()} takes no images of {height} x {width}: "
                                f"{e}") from e


def open_splits(settings: Any) -> Splits:
    """The images to learn from and those held out, as the settings name them. Raises SettingsError where both are one
    data set, DataError for one that cannot be read or whose classes do not fit."""
    if settings.val and _same(settings.val, settings.data):
        raise SettingsError(f"val is {settings.val!r}, the very data that are learned from: leave it out, "
                            "and a part of them is held out, the one that they name or a share of each class")
    dataset = open_dataset(settings.data, on_error=settings.on_error)
    if not settings.val:
        return split(dataset, fraction=settings.val_fraction, seed=settings.seed)
    val = open_dataset(settings.val, on_error=settings.on_error, classes=dataset.classes)
    return Splits(train=dataset, val=val, record={"how": "named", "train": settings.data, "val": settings.val})


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


def build_student(settings: Any, classes: tuple[str, ...]) -> Classifier:
    """The model that the settings name, with the preprocessing that the run will use."""
    arguments = settings.arguments()
    if settings.size and arguments.get("image", settings.size) != settings.size:
        raise SettingsError(f"size is {settings.size}, and --set builds the model for image={arguments['image']}: "
                            "leave out one of them")
    if settings.size and "image" in variant_of(settings.model).settings():
        arguments.setdefault("image", settings.size)
    model = create_model(settings.model, task="classification", labels=classes, weights=settings.weights or None,
                         keys=settings.keys, inside=settings.inside, resize=bool(settings.weights),
                         head="fresh" if settings.new_head else "", mixer=settings.mixer, **arguments)
    assert isinstance(model, Classifier)
    spec = model.config.spec
    size = (settings.size, settings.size) if settings.size else spec.preprocessing.size
    preprocessing = replace(spec.preprocessing, size=size, crop=settings.crop)
    model.config = replace(model.config, spec=replace(spec, preprocessing=preprocessing))
    return model


def make_objective(settings: Any, splits: Splits) -> ClassificationObjective:
    """Classification on these images, told by these settings. Raises SettingsError where they do not go together."""
    preprocessing = build_student(settings, splits.train.classes).config.spec.preprocessing
    augmentation = Augmentation(
        scale=(settings.crop_scale, 1.0), flip=settings.flip, randaugment_ops=settings.randaugment,
        randaugment_magnitude=settings.magnitude, jitter=settings.jitter, erase=settings.erase)
    loss = Objective(
        smoothing=settings.smoothing, mixing=Mixing(mixup=settings.mixup, cutmix=settings.cutmix),
        distillation=Distillation(kind=settings.distillation, alpha=settings.alpha, temperature=settings.temperature))
    return ClassificationObjective(
        build=lambda: build_student(settings, splits.train.classes), train=splits.train, val=splits.val,
        training=training_transform(preprocessing, augmentation), evaluation=evaluation_transform(preprocessing),
        save=lambda model, folder: save_model(model, folder, overwrite=True), loss=loss, seed=settings.seed,
        batch=settings.batch, workers=settings.workers, accumulate=settings.accumulate, record=splits.record,
        on_error=settings.on_error, teacher=load_model(settings.teacher) if settings.teacher else None)


def about(settings: Any, splits: Splits) -> str:
    """What is trained on what, in a line."""
    how = splits.record["how"]
    held = {"stratified": f"{settings.val_fraction:g} of each class, seed {settings.seed}", "named": settings.val}
    taught = f", taught by {settings.teacher}" if settings.teacher else ""
    mixed = f" with {settings.mixer}" if settings.mixer else ""
    return (f"{settings.model}{mixed} on {settings.data}{taught}: {len(splits.train):,} images of "
            f"{len(splits.train.classes):,} classes to learn from, {len(splits.val):,} held out "
            f"({held.get(how, 'the split that the data name')})")
