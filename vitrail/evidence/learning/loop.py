"""Small networks taught in memory: the loop of the claims about learning.

A claim trains dozens of networks of a few seconds each on tensors, and asks for what a training of a user's never
needs (plain gradient descent, attacks, gradients at the start); so it has a loop of its own, of a page.
"""
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.evidence.learning.pictures import Pictures, pictures
from vitrail.models import create_model
from vitrail.core.score import Score
from vitrail.measure.intervals import student_t
from vitrail.training.pool import pooled

R = TypeVar("R")
Optimizer = Literal["adamw", "sgd"]
SEEDS = 5
SIZE = 24                                               # pixels, of all pictures

Make = Callable[[int], nn.Module]
"""Makes a network for so many classes."""
Arm = Callable[[Pictures, int], Mapping[str, float]]
"""What is found, by name, of a network that is taught with these pictures and this seed."""
Found = dict[str, dict[str, list[float]]]
"""Arm by arm, what was found, by name: a number a seed."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How long and how a network is taught. warmup: the share of steps in which the rate grows; then a half cosine."""

    steps: int = 1000
    batch: int = 32
    lr: float = 2e-3
    warmup: float = 0.1
    decay: float = 0.05
    optimizer: Optimizer = "adamw"
    smoothing: float = 0.1
    clip: float = 1.0                   # the longest gradient; longer ones are scaled down

    def of(self, smoke: bool) -> "Budget":
        """This budget, or two steps of it for a smoke run."""
        return replace(self, steps=2) if smoke else self


def named(model: str, **changes: Any) -> Make:
    """Makes a model of the catalogue, for small pictures."""
    return partial(_named, model, changes)


def _named(model: str, changes: Mapping[str, Any], classes: int) -> nn.Module:
    return create_model(model, classes=classes, **changes)


def teach(model: nn.Module, pictures: Pictures, budget: Budget, seed: int, *,
          loss: Callable[[nn.Module, Tensor, Tensor], Tensor] | None = None) -> nn.Module:
    """Trains in place, on batches in a seeded order, each shifted by up to a 24th of its side; ends in evaluation.

    loss: of (model, images, labels); the cross-entropy unless given.
    """
    draw = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)                                         # stochastic depth and dropout
    parameters = [p for p in model.parameters() if p.requires_grad]
    made: torch.optim.Optimizer = (
        torch.optim.AdamW(parameters, lr=budget.lr, weight_decay=budget.decay) if budget.optimizer == "adamw" else
        torch.optim.SGD(parameters, lr=budget.lr, momentum=0.9, weight_decay=1e-4))
    order: list[int] = []
    batch = min(budget.batch, len(pictures.labels))
    model.train()
    for step in range(budget.steps):
        if len(order) < batch:
            order = torch.randperm(len(pictures.labels), generator=draw).tolist()
        chosen, order = order[:batch], order[batch:]
        images, labels = shifted(pictures.images[chosen], draw), pictures.labels[chosen]
        for group in made.param_groups:
            group["lr"] = budget.lr * rate(step / budget.steps, budget.warmup)
        found = loss(model, images, labels) if loss else F.cross_entropy(model(images), labels,
                                                                         label_smoothing=budget.smoothing)
        made.zero_grad()
        found.backward()
        torch.nn.utils.clip_grad_norm_(parameters, budget.clip)
        made.step()
    return model.eval()


def rate(done: float, warmup: float) -> float:
    """The share of the highest rate after a share of the steps."""
    if done < warmup:
        return (done + 1e-3) / warmup
    return 0.5 * (1 + math.cos(math.pi * (done - warmup) / (1 - warmup)))


def shifted(images: Tensor, draw: torch.Generator) -> Tensor:
    """Each image moved by up to a 24th of its side, down or up and left or right; the border is repeated."""
    size = images.shape[-1]
    most = size // 24
    y, x = (torch.randint(-most, most + 1, (len(images), 1), generator=draw) + torch.arange(size) for _ in range(2))
    rows, columns = (t.clamp(0, size - 1).to(images.device) for t in (y, x))                    # (B, S)
    return images[torch.arange(len(images))[:, None, None], :, rows[:, :, None], columns[:, None]].movedim(-1, 1)


@torch.inference_mode()
def right(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """The share of these images that are told right."""
    return float((model(images).argmax(-1) == labels).float().mean())


def score(model: nn.Module, pictures: Pictures) -> float:
    """The share of held-out images that are told right."""
    return right(model, pictures.held_out, pictures.held_labels)


def new(make: Make, pictures: Pictures, seed: int) -> nn.Module:
    """A network with first weights of this seed, where the pictures are."""
    torch.manual_seed(seed)
    return make(pictures.classes).to(pictures.images.device)


def learn(make: Make, budget: Budget, pictures: Pictures, seed: int) -> dict[str, float]:
    """The plainest arm: the held-out share that a network tells right when it has been taught."""
    return {"top1": score(teach(new(make, pictures, seed), pictures, budget, seed), pictures)}


def measure(arms: Mapping[str, Arm], counts: Mapping[str, int], *, smoke: bool) -> Found:
    """What every arm finds, seed by seed, the mean over the sets of pictures.

    counts: how many images of each set a network is taught with. As many trainings at a time as torch may use threads,
    each in a process with one; on the first GPU, where there is one. A smoke run has two seeds, few images to learn
    from and to judge by, and stays in this process.
    """
    seeds = range(2 if smoke else SEEDS)
    jobs = [partial(_one, arm, name, count, seed, smoke)
            for arm in arms.values() for seed in seeds for name, count in counts.items()]
    answers = iter(ask(jobs, smoke=smoke))
    found: Found = {}
    for name in arms:
        rows = [[next(answers) for _ in counts] for _ in seeds]                 # [seed][set]
        found[name] = {what: [sum(one[what] for one in row) / len(row) for row in rows] for what in rows[0][0]}
    return found


def _one(arm: Arm, name: str, count: int, seed: int, smoke: bool) -> Mapping[str, float]:
    found = pictures(name, SIZE).few(min(count, 100) if smoke else count, seed)
    if smoke:
        found = replace(found, held_out=found.held_out[:32], held_labels=found.held_labels[:32])
    return arm(found.to(home()), seed)


def home() -> torch.device:
    """Where networks are taught: the first GPU, where there is one."""
    return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


def ask(jobs: Sequence[Callable[[], R]], *, smoke: bool) -> list[R]:
    """What each job answers, in order; as many at a time as torch may use threads, each in a process with one.

    A smoke run stays in this process.
    """
    with pooled(_alone, jobs, 1 if smoke else torch.get_num_threads()) as found:
        return list(found)


def _alone(job: Callable[[], R]) -> R:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return job()
    finally:
        torch.set_num_threads(before)


def paired(a: Sequence[float], b: Sequence[float]) -> Score:
    """The mean of a - b, seed by seed, with Student's 95 % interval."""
    return student_t([x - y for x, y in zip(a, b, strict=True)])


def points(score: Score) -> str:
    """A difference of shares as text, in percentage points with its interval."""
    return f"{100 * score.value:+.1f} points ({100 * score.low:+.1f} to {100 * score.high:+.1f})"


def percent(values: Sequence[float]) -> str:
    """The mean of shares as text."""
    return f"{100 * sum(values) / len(values):.1f} %"


def plain(score: Score) -> dict[str, Any]:
    """A score as JSON can hold it."""
    return {"value": score.value, "low": score.low, "high": score.high}
