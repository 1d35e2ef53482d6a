"""Several mechanisms in one backbone, under one budget: what `vitrail compare` does.

Everything but the token mixer is the same: images, order, augmentation, seeds, epochs, learning rate. What a training
costs is measured apart from the trainings, all mechanisms in turns in one process.
"""
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from vitrail.core.task import Options
from vitrail.measure.memory import peak_bytes
from vitrail.measure.operations import multiply_adds
from vitrail.measure.timing import Times, interleaved
from vitrail.mixers import find_mixer
from vitrail.models import load_model
from vitrail.recipes.compare_settings import CompareSettings
from vitrail.tasks.classification.settings import ClassificationSettings
from vitrail.tasks.classification import setup
from vitrail.tasks.classification.evaluate import evaluate
from vitrail.core.score import Score
from vitrail.measure.intervals import student_t, wilson
from vitrail.training.distributed import pick_device
from vitrail.training.loop import fit
from vitrail.training.numerics import numerics
from vitrail.training.pool import pooled
from vitrail.training.run import Run

BATCH, ROUNDS = 32, 15


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One mechanism. top1: over the seeds; against: the difference to the first mechanism, seed by seed (points).

    ms: of a forward pass of BATCH images; ratio: to the first mechanism's, with quartiles; step_bytes: the peak of a
    training step of as many. multiply_adds: of one image.
    """

    mixer: str
    runs: tuple[float, ...]
    top1: Score
    against: Score | None
    params: int
    multiply_adds: int
    ms: float
    ratio: tuple[float, float, float]
    step_bytes: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def run(settings: CompareSettings, *, log: Callable[[str], None] = lambda text: None) -> list[Compared]:
    """Trains and judges every mechanism once a seed, in OUT/<mechanism>/seed-<n>; measures what each costs.

    A comparison that was stopped goes on where it was; trainings that are finished are not done again. log: is given
    each training's score. Raises ModelError for a mechanism that the backbone cannot take, before anything trains.
    """
    for mixer in settings.mixers:
        find_mixer(mixer)
        setup.check(settings.of_run(mixer, 0))
        for turn in range(settings.seeds):
            Run.look(settings.of_run(mixer, turn))
    hits: dict[str, list[tuple[int, int]]] = {mixer: [] for mixer in settings.mixers}
    todo = [settings.of_run(mixer, turn) for turn in range(settings.seeds) for mixer in settings.mixers]
    with pooled(train, todo, settings.jobs) as found:
        for one, (right, total) in zip(todo, found, strict=True):
            hits[one.model.mixer].append((right, total))
            log(f"{one.model.mixer}, seed {one.training.seed}: held-out top-1 {100 * right / total:.2f} % of {total}")
    costs = measure({mixer: setup.build_student(settings.of_run(mixer, 0), ("one", "another")) for mixer in settings.mixers})
    first = [right / total for right, total in hits[settings.mixers[0]]]
    return [_compared(mixer, hits[mixer], first if mixer != settings.mixers[0] else None, costs[mixer])
            for mixer in settings.mixers]


def train(settings: ClassificationSettings) -> tuple[int, int]:
    """One training; how many held-out images its last weights tell right, and of how many."""
    splits = setup.open_splits(settings)
    objective = setup.make_objective(settings, splits)
    with Run.open(settings) as opened:
        if opened.finished:
            opened.check(objective.describe())
        with open(opened.folder / "log.txt", "a", encoding="utf-8") as log, redirect_stderr(log):
            fit(objective, settings.training, opened)
    training = settings.training
    with numerics(training):
        model = load_model(settings.out)
        options = Options(batch=training.batch, workers=training.workers, on_error=settings.data.on_error,
                          device=pick_device(training.device))
        evaluation = evaluate(model, splits.val, options, resamples=1)
    return sum(p.right for p in evaluation.predictions), evaluation.samples


@dataclass(frozen=True)
class Cost:
    params: int
    multiply_adds: int
    times: Times
    ratio: tuple[float, float, float]
    step_bytes: int


def measure(models: dict[str, Any]) -> dict[str, Cost]:
    """What each model costs on the CPU: the first is what the others' times are compared with."""
    h, w = next(iter(models.values())).config.spec.preprocessing.size
    image = torch.randn(BATCH, 3, h, w, generator=torch.Generator().manual_seed(0))
    times = interleaved({name: partial(model, image) for name, model in models.items()}, rounds=ROUNDS,
                        device=torch.device("cpu"))
    base = times[next(iter(models))]

    def step(model: nn.Module) -> None:
        model(image).sum().backward()
        model.zero_grad()

    def cost(name: str, model: nn.Module) -> Cost:
        return Cost(params=sum(p.numel() for p in model.parameters()), times=times[name],
                    ratio=times[name].over(base), multiply_adds=multiply_adds(lambda: model(image[:1])),
                    step_bytes=peak_bytes(lambda: step(model.train())))
    return {name: cost(name, model) for name, model in models.items()}


def _compared(mixer: str, hits: Sequence[tuple[int, int]], first: Sequence[float] | None, cost: Cost) -> Compared:
    shares = [right / total for right, total in hits]
    top1 = wilson(*hits[0]) if len(hits) == 1 else student_t(shares)
    against = student_t([a - b for a, b in zip(shares, first, strict=True)]) if first and len(shares) > 1 else None
    return Compared(mixer=mixer, runs=tuple(shares), top1=top1, against=against, params=cost.params,
                    multiply_adds=cost.multiply_adds, ms=1e3 * cost.times.median, ratio=cost.ratio,
                    step_bytes=cost.step_bytes)
