"""Every sample once, over however many processes: scores with intervals, each answer, and what was left out."""
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from vitrail.core.errors import DataError, SettingsError, VitrailError
from vitrail.core.results import Excluded, Section, Tile
from vitrail.core.score import Score
from vitrail.core.task import Options
from vitrail.data.loader import Loader
from vitrail.data.settings import ON_ERROR, check_choice
from vitrail.data.transforms import evaluation_transform
from vitrail.tasks.classification.calibration import Bin, reliability
from vitrail.tasks.classification.data import Batch, CollateImages, Transform
from vitrail.tasks.classification.metrics import ClassScore, Ints, Outcomes, intervals, per_class


@dataclass(frozen=True, kw_only=True)
class Judged:
    """One sample's answer beside the truth. top: names and probabilities of up to five classes, best first."""

    index: int
    key: str
    label: str
    predicted: str
    probability: float
    right: bool
    top: tuple[tuple[str, float], ...]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What `evaluate` found. Classes are in the model's order everywhere."""

    model: str
    source: str
    labels: tuple[str, ...]
    samples: int
    scores: dict[str, Score]                    # see metrics.intervals for the names
    per_class: tuple[ClassScore, ...]
    confusion: Ints                             # (K, K) counts: rows are the truth, columns the answers
    reliability: tuple[Bin, ...]
    predictions: tuple[Judged, ...]             # in the order of the data set
    excluded: tuple[Excluded, ...]

    @property
    def about(self) -> str:
        return f"{self.model} on {self.source}: {self.samples:,} images of {len(self.labels)} classes"

    def worst(self, n: int) -> list[Judged]:
        """The n mistakes that the model was surest of, surest first."""
        wrong = [p for p in self.predictions if not p.right]
        return sorted(wrong, key=lambda p: (-p.probability, p.index))[:max(n, 0)]

    def to_json(self) -> dict[str, Any]:
        """Plain values that json.dumps takes: no tensors, no NaN."""
        plain = {name: getattr(self, name) for name in ("model", "source", "labels", "samples")}
        listed = {name: [asdict(x) for x in getattr(self, name)]
                  for name in ("per_class", "reliability", "predictions", "excluded")}
        scores = {name: score.to_json() for name, score in self.scores.items()}
        return plain | {"labels": list(self.labels), "scores": scores, "confusion": self.confusion.tolist()} | listed

    def tiles(self) -> Iterator[Tile]:
        yield Tile(name="images", value=f"{self.samples:,}", note=f"{len(self.labels)} classes")

    def sections(self, model: Any, dataset: Any) -> Iterator[Section]:
        from vitrail.tasks.classification.report import sections
        yield from sections(self, model, dataset)


def evaluate(model: Any, dataset: Any, options: Options | None = None, *, rank: int = 0, of: int = 1,
             resamples: int = 1000, transform: Transform | None = None) -> Evaluation:
    """Scores a classifier on every sample of a data set, once; the same Evaluation in all ``of`` processes.

    transform: the evaluation transform of the model's preprocessing where it is left out. options.batch: over all
    processes. options.on_error: "stop" raises the DataError of the first image that cannot be read; "skip" excludes
    and lists it. options.seed: of the bootstrap. Classes in another order than the model's are matched by name.

    Raises DataError for classes that are not the model's, an unreadable image, or nothing left to evaluate;
    ModelError for answers that are not finite; SettingsError for settings that cannot be.
    """
    options = options or Options(batch=64)
    spec = model.config.spec
    outcomes, unread = collect(model, dataset, transform=transform or evaluation_transform(spec.preprocessing),
                               options=options, rank=rank, of=of)
    confusion = outcomes.confusion
    excluded = [Excluded(s.key, s.why) for s in dataset.skipped]
    excluded += [Excluded(dataset.key(index), why) for index, why in sorted(unread.items())]
    return Evaluation(model=model.config.model, source=dataset.name, labels=spec.labels, samples=len(outcomes),
                      scores=intervals(outcomes, seed=options.seed, resamples=resamples), confusion=confusion,
                      per_class=per_class(confusion, spec.labels),
                      reliability=reliability(outcomes.confidence, outcomes.rank == 0),
                      predictions=tuple(_judged(outcomes, dataset, spec.labels)), excluded=tuple(excluded))


def collect(model: Any, dataset: Any, *, transform: Transform, options: Options, rank: int = 0,
            of: int = 1) -> tuple[Outcomes, dict[int, str]]:
    """The outcomes of all processes in the order of the data set, and the unreadable samples with the reasons."""
    check_choice("on_error", options.on_error, ON_ERROR)
    if not len(dataset):
        raise DataError(f"{dataset.name}: there is no sample to evaluate")
    if of > 1 and not (dist.is_available() and dist.is_initialized()):
        raise SettingsError(f"evaluating in {of} processes needs torch.distributed: start them with torchrun")
    order = torch.tensor(class_order(dataset, model.config.spec.labels))
    height, width = model.config.spec.preprocessing.size
    device = options.device
    loader = Loader(dataset, CollateImages(transform, on_error=options.on_error), batch=options.batch,
                    workers=options.workers, rank=rank, of=of)
    parts = [Outcomes.empty(len(order))]
    unread: dict[int, str] = {}
    failure: VitrailError | None = None
    steps = 0
    with answering(model.to(device)):
        try:
            for batch in loader.epoch(0):
                logits = model(batch.images.to(device))
                steps += 1
                reasons = batch.unread or {}
                kept = torch.tensor([place not in reasons for place in range(len(batch))])
                unread.update({int(batch.indices[place]): why for place, why in reasons.items()})
                labels = _renamed(order, batch, dataset)
                parts.append(Outcomes.of(logits.cpu()[kept], labels[kept], batch.indices.cpu()[kept]))
        except VitrailError as e:
            failure = e
        finally:
            loader.close()
        # A sharded model needs all processes at every step, so one that runs out of samples, or fails, keeps step.
        for _ in range(steps, len(loader) if of > 1 else 0):
            model(torch.zeros(1, 3, height, width, device=device))
    return _merge(Outcomes.join(parts), unread, failure, of)


def _merge(outcomes: Outcomes, unread: dict[int, str], failure: VitrailError | None,
           of: int) -> tuple[Outcomes, dict[int, str]]:
    """Puts the processes' findings together. One process's failure is raised in all, so that none waits for it."""
    findings: list[Any] = [(outcomes, unread, failure)]
    if of > 1:
        findings = [None] * of
        dist.all_gather_object(findings, (outcomes, unread, failure))
    for _, _, error in findings:
        if error is not None:
            raise error
    reasons = {index: why for _, part, _ in findings for index, why in part.items()}
    return Outcomes.join([part for part, _, _ in findings]), reasons


def class_order(dataset: Any, labels: Sequence[str]) -> list[int]:
    """The model's class for each class of the data set. Raises DataError naming the difference."""
    classes = tuple(dataset.classes)
    if classes == tuple(labels):
        return list(range(len(classes)))
    extra = sorted(set(classes) - set(labels))
    missing = sorted(set(labels) - set(classes))
    if extra or missing or len(classes) != len(labels) or len(set(labels)) != len(labels):
        differences = [f"{what} {', '.join(map(repr, names[:5]))}{', ...' if len(names) > 5 else ''}"
                       for what, names in (("the data alone have", extra), ("the model alone has", missing)) if names]
        raise DataError(f"{dataset.name!r} has {len(classes)} classes and the model {len(labels)}, and they are not "
                        f"the same: {'; '.join(differences) or 'a name is used twice'}. Evaluate on the classes it was "
                        "trained on")
    places = {name: i for i, name in enumerate(labels)}
    return [places[name] for name in classes]


def _renamed(order: Tensor, batch: Batch, dataset: Any) -> Tensor:
    """The batch's labels (B,) as the model's classes. Raises DataError for a label that is none of the data set's."""
    labels = batch.labels.cpu()
    for place in ((labels < 0) | (labels >= len(order))).nonzero()[:1, 0].tolist():
        raise DataError(f"{dataset.key(int(batch.indices[place]))}: the label {int(labels[place])} is none of the "
                        f"{len(order)} classes of {dataset.name}")
    return order[labels]


@contextmanager
def answering(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; each part's own mode comes back afterwards."""
    modes = [(part, part.training) for part in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part, training in modes:
            part.training = training


def _judged(outcomes: Outcomes, dataset: Any, labels: Sequence[str]) -> Iterator[Judged]:
    columns = (outcomes.index, outcomes.label, outcomes.rank, outcomes.top, outcomes.top_probability)
    for index, label, rank, top, probability in zip(*(c.tolist() for c in columns), strict=True):
        yield Judged(index=index, key=dataset.key(index), label=labels[label], predicted=labels[top[0]],
                     probability=probability[0], right=rank == 0,
                     top=tuple((labels[t], p) for t, p in zip(top, probability, strict=True)))
