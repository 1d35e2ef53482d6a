"""Classification as an objective of the training loop: what to build, what to minimise, how to score it."""
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vitrail.core.errors import ModelError, SettingsError
from vitrail.core.task import Options
from vitrail.data.loader import Loader
from vitrail.tasks.classification.data import Batch, CollateImages, Transform
from vitrail.tasks.classification.distill import Teacher, teacher_term, two_logits
from vitrail.tasks.classification.evaluate import collect
from vitrail.tasks.classification.losses import cross_entropy, soft_targets
from vitrail.tasks.classification.metrics import summary
from vitrail.tasks.classification.mixing import check_pairs
from vitrail.tasks.classification.model import Classifier
from vitrail.tasks.classification.settings import LossSettings


class ClassificationObjective:
    """Trains a classifier on one data set and scores it on another.

    build: makes the student, called once, after seeding; its labels are the classes of `train`, in that order.
    training, evaluation: transforms to the student's input. save: writes a finished model into a folder
    (vitrail.save_model). batch: images a step, over all processes and micro-batches. record: how the two data sets
    were made, for the run's metadata. teacher: a trained classifier of the same classes, of any backbone; it is
    frozen. on_error: what evaluation does with an unreadable image.

    Raises SettingsError where the parts do not fit together.
    """

    headline = "top1"
    larger_is_better = True

    def __init__(self, *, build: Callable[[], Classifier], train: Any, val: Any, training: Transform,
                 evaluation: Transform, save: Callable[[Classifier, Path], object], loss: LossSettings, seed: int,
                 batch: int, workers: int = 0, accumulate: int = 1, teacher: Any = None,
                 record: Mapping[str, Any] | None = None, on_error: str = "stop"):
        if loss.distillation.on and teacher is None:
            raise SettingsError("distillation needs a teacher: name one, or set distillation to none")
        if teacher is not None and not loss.distillation.on:
            raise SettingsError("a teacher is given, and distillation is none: set it to hard or soft")
        if not 0 < batch <= len(train):
            raise SettingsError(f"a batch of {batch} cannot be taken from the {len(train)} training samples of "
                                f"{train.name!r}: choose one from 1 to {len(train)}")
        self.build = build
        self.train = train
        self.val = val
        self.training = training
        self.evaluation = evaluation
        self.write = save
        self.settings = loss
        self.seed = seed
        self.batch = batch
        self.workers = workers
        self.accumulate = accumulate
        self.record = dict(record or {})
        self.on_error = on_error
        self.given = teacher
        self.teacher: Teacher | None = None             # made with the student, whose classes and input it needs

    def model(self) -> Classifier:
        """The student. Raises SettingsError where it, its teacher and the data do not know the same classes."""
        student = self.build()
        if student.config.spec.labels != tuple(self.train.classes):
            raise SettingsError(f"the model's labels {_few(student.config.spec.labels)} are not the classes of "
                                f"{self.train.name!r}, {_few(self.train.classes)}: build it with "
                                "labels=dataset.classes")
        if self.given is not None:
            if self.given is student:
                raise SettingsError("a model cannot be its own teacher: build the student apart")
            self.teacher = Teacher(self.given, labels=student.config.spec.labels,
                                   preprocessing=student.config.spec.preprocessing)
        return student

    def batches(self, rank: int, of: int) -> Loader[Batch]:
        """Whole training batches. Raises SettingsError where they cannot be shared out, before a step is made."""
        if self.batch % (of * self.accumulate):
            raise SettingsError(f"a batch of {self.batch} cannot be shared by {of} processes x {self.accumulate} "
                                f"micro-batches: choose a multiple of {of * self.accumulate}")
        mixing = self.settings.mixing
        if mixing.on:
            check_pairs(batch=self.batch, of=of, accumulate=self.accumulate)
        return Loader(self.train, CollateImages(self.training, seed=self.seed, mixing=mixing), batch=self.batch,
                      seed=self.seed, shuffle=True, workers=self.workers, rank=rank, of=of, drop_last=True)

    def loss(self, model: nn.Module, batch: Batch, step: int) -> dict[str, Tensor]:
        """Means over the batch: loss = (1 - alpha) ce + alpha distillation, and the accuracy of the class logits.

        accuracy: the share of images whose heaviest label is answered. distillation: where there is a teacher.
        """
        student = _classifier(model)
        images = batch.images
        targets = soft_targets(batch.labels, len(self.train.classes), self.settings.smoothing)
        if self.settings.mixing.on:
            images, targets = batch.mixed(targets)
        if self.teacher is None:
            logits = student(images)
            loss = ce = cross_entropy(logits, targets).mean()
            parts = {}
        else:
            settings = self.settings.distillation
            logits, listening = two_logits(student, images)
            ce = cross_entropy(logits, targets).mean()
            term = teacher_term(settings, listening, self.teacher(images)).mean()
            loss = (1 - settings.alpha) * ce + settings.alpha * term
            parts = {"distillation": term.detach()}
        hits = (logits.detach().argmax(-1) == targets.argmax(-1)).float().mean()
        return {"loss": loss, "ce": ce.detach(), **parts, "accuracy": hits}

    def evaluate(self, model: nn.Module, device: torch.device, rank: int, of: int) -> dict[str, float]:
        """Scores of the held-out samples of all processes (metrics.intervals names them), and how many there were."""
        options = Options(batch=max(of, self.batch // self.accumulate), workers=self.workers, device=device,
                          on_error=self.on_error)
        outcomes, unread = collect(_classifier(model), self.val, transform=self.evaluation, options=options,
                                   rank=rank, of=of)
        return summary(outcomes) | {"samples": float(len(outcomes)), "unread": float(len(unread))}

    def describe(self) -> dict[str, Any]:
        """The data, the objective and the teacher, as JSON."""
        splits = {"train": self.train, "val": self.val}
        data: dict[str, dict[str, Any]] = {
            split: {"name": dataset.name, "samples": len(dataset), "fingerprint": dataset.fingerprint(),
                    "skipped": [{"key": x.key, "why": x.why} for x in dataset.skipped]}
            for split, dataset in splits.items()}
        return {"task": "classification", "classes": list(self.train.classes), "data": data,
                "fingerprint": "/".join(d["fingerprint"] for d in data.values()), "record": self.record,
                "objective": asdict(self.settings),
                "teacher": None if self.given is None else self.given.config.to_json()}

    def names(self, batch: Batch) -> list[str]:
        """The keys of a batch's samples."""
        return [self.train.key(i) for i in batch.indices.tolist()]

    def save(self, model: nn.Module, folder: Path) -> None:
        self.write(_classifier(model), folder)


def _classifier(model: nn.Module) -> Classifier:
    if not isinstance(model, Classifier):
        raise ModelError(f"this objective trains a Classifier, and it was handed a {type(model).__name__}")
    return model


def _few(names: tuple[str, ...]) -> str:
    return f"({', '.join(map(repr, names[:5]))}{', ...' if len(names) > 5 else ''})"
