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
from torch.utils._pytree import tree_leaves

from vitrail.core.score import Score
from vitrail.core.task import Options, task_for, task_of
from vitrail.measure.intervals import student_t
from vitrail.measure.memory import peak_bytes
from vitrail.measure.operations import multiply_adds
from vitrail.measure.timing import Times, interleaved
from vitrail.mixers import find_mixer
from vitrail.models import load_model
from vitrail.recipes.compare_settings import CompareSettings
from vitrail.training.distributed import pick_device
from vitrail.training.loop import fit
from vitrail.training.numerics import numerics
from vitrail.training.pool import pooled
from vitrail.training.run import Run
from vitrail.training.settings import RunSettings

BATCH, ROUNDS = 32, 15


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One mechanism. score: the task's headline over the seeds; against: the difference to the first mechanism's, seed
    by seed.

    ms: of a forward pass of BATCH samples; ratio: to the first mechanism's, with quartiles; step_bytes: the peak of a
    training step of as many. multiply_adds: of one sample.
    """

    mixer: str
    runs: tuple[float, ...]
    score: Score
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
    task = settings.chosen_task
    metric = task.metric(task.headline)
    for mixer in settings.mixers:
        find_mixer(mixer)
        task.check(settings.of_run(mixer, 0))
        for turn in range(settings.seeds):
            Run.look(settings.of_run(mixer, turn))
    scores: dict[str, list[Score]] = {mixer: [] for mixer in settings.mixers}
    todo = [settings.of_run(mixer, turn) for turn in range(settings.seeds) for mixer in settings.mixers]
    with pooled(train, todo, settings.jobs) as judged:
        for one, score in zip(todo, judged, strict=True):
            mixer = one.at("model.mixer")
            scores[mixer].append(score)
            log(f"{mixer}, seed {one.training.seed}: held-out {metric.label} {metric.value(score)}")
    splits = task.splits(settings.of_run(settings.mixers[0], 0))
    costs = measure({mixer: task.objective(settings.of_run(mixer, 0), splits).build() for mixer in settings.mixers})
    first = [score.value for score in scores[settings.mixers[0]]]
    return [_compared(mixer, scores[mixer], first if mixer != settings.mixers[0] else None, costs[mixer])
            for mixer in settings.mixers]


def train(settings: RunSettings) -> Score:
    """One training: the headline score of its last weights on what was held out."""
    task = task_for(settings.model.name, settings.task)
    splits = task.splits(settings)
    objective = task.objective(settings, splits)
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
        score: Score = task.evaluate(model, splits.val, options).scores[task.headline]
    return score


@dataclass(frozen=True)
class Cost:
    params: int
    multiply_adds: int
    times: Times
    ratio: tuple[float, float, float]
    step_bytes: int


def measure(models: dict[str, Any]) -> dict[str, Cost]:
    """What each model costs on the CPU: the first is what the others' times are compared with."""
    config = next(iter(models.values())).config
    task = task_of(config)
    inputs = tree_leaves(task.example_inputs(config, BATCH))
    one = tree_leaves(task.example_inputs(config, 1))
    times = interleaved({name: partial(model, *inputs) for name, model in models.items()}, rounds=ROUNDS,
                        device=torch.device("cpu"))
    base = times[next(iter(models))]

    def step(model: nn.Module) -> None:
        sum(leaf.sum() for leaf in tree_leaves(model(*inputs)) if leaf.is_floating_point()).backward()
        model.zero_grad()

    def cost(name: str, model: nn.Module) -> Cost:
        return Cost(params=sum(p.numel() for p in model.parameters()), times=times[name],
                    ratio=times[name].over(base), multiply_adds=multiply_adds(lambda: model(*one)),
                    step_bytes=peak_bytes(lambda: step(model.train())))
    return {name: cost(name, model) for name, model in models.items()}


def _compared(mixer: str, scores: Sequence[Score], first: Sequence[float] | None, cost: Cost) -> Compared:
    values = [score.value for score in scores]
    score = scores[0] if len(scores) == 1 else student_t(values)
    against = student_t([a - b for a, b in zip(values, first, strict=True)]) if first and len(values) > 1 else None
    return Compared(mixer=mixer, runs=tuple(values), score=score, against=against, params=cost.params,
                    multiply_adds=cost.multiply_adds, ms=1e3 * cost.times.median, ratio=cost.ratio,
                    step_bytes=cost.step_bytes)
