"""Every sample once, over however many processes: scores with intervals, each answer, and what was left out."""
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from vitrail.core.errors import DataError, SettingsError, VitrailError
from vitrail.data.batches import Batch, Batches, Transform
from vitrail.data.settings import ON_ERROR, check_choice
from vitrail.data.source import Source
from vitrail.data.transforms import evaluation_transform
from vitrail.tasks.classification.calibration import Bin, reliability
from vitrail.tasks.classification.guarded import Blank, Guarded
from vitrail.tasks.classification.intervals import Score
from vitrail.tasks.classification.metrics import ClassScore, Ints, Outcomes, intervals, per_class
from vitrail.tasks.classification.model import Classifier

Loader = Callable[..., Batches]                 # called as Batches is


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


@dataclass(frozen=True)
class Excluded:
    """A sample that was not evaluated, and why."""

    key: str
    why: str


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
    predictions: tuple[Judged, ...]             # in the order of the source
    excluded: tuple[Excluded, ...]

    def worst(self, n: int) -> list[Judged]:
        """The n mistakes that the model was surest of, surest first."""
        wrong = [p for p in self.predictions if not p.right]
        return sorted(wrong, key=lambda p: (-p.probability, p.index))[:max(n, 0)]

    def to_json(self) -> dict[str, Any]:
        """Plain values that json.dumps takes: no tensors, no NaN."""
        plain = {name: getattr(self, name) for name in ("model", "source", "labels", "samples")}
        listed = {name: [asdict(x) for x in getattr(self, name)]
                  for name in ("per_class", "reliability", "predictions", "excluded")}
        scores = {name: asdict(score) for name, score in self.scores.items()}
        return plain | {"labels": list(self.labels), "scores": scores, "confusion": self.confusion.tolist()} | listed


def evaluate(model: Classifier, source: Source, *, batch: int = 64, workers: int = 0,
             device: torch.device | str = "cpu", rank: int = 0, of: int = 1, on_error: str = "stop", seed: int = 0,
             resamples: int = 1000, transform: Transform | None = None, loader: Loader = Batches) -> Evaluation:
    """Scores a classifier on every sample of a source, once; the same Evaluation in all ``of`` processes.

    transform: the evaluation transform of the model's preprocessing where it is left out. batch: over all processes.
    on_error: "stop" raises the DataError of the first image that cannot be read; "skip" excludes and lists it.
    seed: of the bootstrap. Classes in another order than the model's are matched by name.

    Raises DataError for classes that are not the model's, an unreadable image, or nothing left to evaluate;
    ModelError for answers that are not finite; SettingsError for settings that cannot be.
    """
    seen, unread = collect(model, source, transform=transform or evaluation_transform(model.config.spec.preprocessing),
                           loader=loader, batch=batch, workers=workers, device=device, rank=rank, of=of,
                           on_error=on_error)
    labels, confusion = model.config.spec.labels, seen.confusion
    excluded = [Excluded(s.key, s.why) for s in source.skipped] + [_why(source, i) for i in unread]
    return Evaluation(model=model.config.model, source=source.name, labels=labels, samples=len(seen),
                      scores=intervals(seen, seed=seed, resamples=resamples), confusion=confusion,
                      per_class=per_class(confusion, labels), reliability=reliability(seen.confidence, seen.rank == 0),
                      predictions=tuple(_judged(seen, source, labels)), excluded=tuple(excluded))


def collect(model: Classifier, source: Source, *, transform: Transform, loader: Loader, batch: int, workers: int,
            device: torch.device | str, rank: int, of: int, on_error: str) -> tuple[Outcomes, list[int]]:
    """The outcomes of all processes in the order of the source, and the numbers of the unreadable samples."""
    check_choice("on_error", on_error, ON_ERROR)
    if not len(source):
        raise DataError(f"{source.name}: there is no sample to evaluate")
    if of > 1 and not (dist.is_available() and dist.is_initialized()):
        raise SettingsError(f"evaluating in {of} processes needs torch.distributed: start them with torchrun")
    order = torch.tensor(class_order(source, model.config.spec.labels))
    height, width = model.config.spec.preprocessing.size
    if on_error == "skip":
        source, transform = Guarded(source), Blank(transform)
    batches = loader(source, transform, batch=batch, seed=0, shuffle=False, workers=workers, rank=rank, of=of,
                     drop_last=False)
    parts, unread, failure, steps = [Outcomes.empty(len(order))], list[int](), None, 0
    with answering(model.to(device)):
        try:
            for b in batches.epoch(0):
                if len(b):
                    logits = model(b.images.to(device))
                    steps += 1
                    blank = b.images[:, 0, 0, 0].isnan().cpu()
                    unread += b.indices.cpu()[blank].tolist()
                    labels = _renamed(order, b, source)
                    parts.append(Outcomes.of(logits.cpu()[~blank], labels[~blank], b.indices.cpu()[~blank]))
        except VitrailError as e:
            failure = e
        finally:
            batches.close()
        # A sharded model needs all processes at every step, so one that runs out of samples, or fails, keeps step.
        for _ in range(steps, len(batches) if of > 1 else 0):
            model(torch.zeros(1, 3, height, width, device=device))
    return _merge(Outcomes.join(parts), unread, failure, of)


def _merge(seen: Outcomes, unread: list[int], failure: VitrailError | None, of: int) -> tuple[Outcomes, list[int]]:
    """Puts the processes' findings together. One process's failure is raised in all, so that none waits for it."""
    found: list[Any] = [(seen, unread, failure)]
    if of > 1:
        found = [None] * of
        dist.all_gather_object(found, (seen, unread, failure))
    for _, _, error in found:
        if error is not None:
            raise error
    return Outcomes.join([part for part, _, _ in found]), sorted(i for _, numbers, _ in found for i in numbers)


def class_order(source: Source, labels: Sequence[str]) -> list[int]:
    """The model's class for each class of the source. Raises DataError naming the difference."""
    classes = tuple(source.classes)
    if classes == tuple(labels):
        return list(range(len(classes)))
    extra, missing = sorted(set(classes) - set(labels)), sorted(set(labels) - set(classes))
    if extra or missing or len(classes) != len(labels) or len(set(labels)) != len(labels):
        said = [f"{what} {', '.join(map(repr, names[:5]))}{', ...' if len(names) > 5 else ''}"
                for what, names in (("the source alone has", extra), ("the model alone has", missing)) if names]
        raise DataError(f"{source.name!r} has {len(classes)} classes and the model {len(labels)}, and they are not the "
                        f"same: {'; '.join(said) or 'a name is used twice'}. Evaluate on the classes it was trained on")
    places = {name: i for i, name in enumerate(labels)}
    return [places[name] for name in classes]


def _renamed(order: Tensor, batch: Batch, source: Source) -> Tensor:
    """The batch's labels (B,) as the model's classes. Raises DataError for a label that is no class of the source."""
    labels = batch.labels.cpu()
    for place in ((labels < 0) | (labels >= len(order))).nonzero()[:1, 0].tolist():
        raise DataError(f"{source.key(int(batch.indices[place]))}: the label {int(labels[place])} is none of the "
                        f"{len(order)} classes of {source.name}")
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


def _judged(seen: Outcomes, source: Source, labels: Sequence[str]) -> Iterator[Judged]:
    columns = (seen.index, seen.label, seen.rank, seen.top, seen.top_probability)
    for index, label, rank, top, sure in zip(*(c.tolist() for c in columns), strict=True):
        yield Judged(index=index, key=source.key(index), label=labels[label], predicted=labels[top[0]],
                     probability=sure[0], right=rank == 0,
                     top=tuple((labels[t], p) for t, p in zip(top, sure, strict=True)))


def _why(source: Source, index: int) -> Excluded:
    try:
        source.read(index)
        why = "it could not be read at first, though it can be read now"
    except DataError as e:
        why = str(e)
    return Excluded(source.key(index), why)
