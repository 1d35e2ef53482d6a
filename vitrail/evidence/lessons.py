"""Small networks taught in memory: the loop of the claims about learning.

A claim trains dozens of networks of a few seconds each on tensors, and asks for what a training of a user's never
needs (plain gradient descent, attacks, gradients at the start); so it has a loop of its own, of a page.
"""
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.evidence.pictures import Pictures
from vitrail.tasks.classification.intervals import Score, student_t
from vitrail.train.pool import pooled

R = TypeVar("R")
SEEDS = 5


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How long and how a network is taught. warmup: the share of steps in which the rate grows; then a half cosine."""

    steps: int = 400
    batch: int = 64
    lr: float = 2e-3
    warmup: float = 0.1
    decay: float = 0.05
    optimizer: Literal["adamw", "sgd"] = "adamw"
    smoothing: float = 0.1


def teach(model: nn.Module, pictures: Pictures, budget: Budget, seed: int, *,
          loss: Callable[[nn.Module, Tensor, Tensor], Tensor] | None = None) -> nn.Module:
    """Trains in place, on batches in a seeded order, each shifted by up to an eighth of its side; ends in evaluation.

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
        made.step()
    return model.eval()


def rate(done: float, warmup: float) -> float:
    """The share of the highest rate after a share of the steps."""
    if done < warmup:
        return (done + 1e-3) / warmup
    return 0.5 * (1 + math.cos(math.pi * (done - warmup) / (1 - warmup)))


def shifted(images: Tensor, draw: torch.Generator) -> Tensor:
    """A batch moved by a few pixels, down or up and left or right; the border is repeated."""
    most, size = images.shape[-1] // 8, images.shape[-1]
    y, x = (int(torch.randint(0, 2 * most + 1, (), generator=draw)) for _ in range(2))
    return F.pad(images, (most,) * 4, mode="replicate")[..., y:y + size, x:x + size]


@torch.inference_mode()
def score(model: nn.Module, pictures: Pictures) -> float:
    """The share of held-out images that are told right."""
    return float((model(pictures.held_out).argmax(-1) == pictures.held_labels).float().mean())


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


def points(score: Score) -> str:
    """A difference of shares as text, in percentage points with its interval."""
    return f"{100 * score.value:+.1f} points ({100 * score.low:+.1f} to {100 * score.high:+.1f})"


def paired(a: Sequence[float], b: Sequence[float]) -> Score:
    """The mean of a - b, seed by seed, with Student's 95 % interval."""
    return student_t([x - y for x, y in zip(a, b, strict=True)])


def plain(score: Score) -> dict[str, Any]:
    """A score as JSON can hold it."""
    return {"value": score.value, "low": score.low, "high": score.high}
