"""What an explanation is asked about: how a network runs, and the score whose grounds are wanted."""
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vitrail.core.config import ModelConfig
from vitrail.core.errors import ExplainError
from vitrail.core.task import task_of
from vitrail.nn import Features

Score = Callable[[Any, Any], Tensor]        # (output, target) -> (B,)


@dataclass(frozen=True, eq=False, kw_only=True)
class ExplainedModel:
    """A network for images in two parts, and how its output is asked about.

    model:    the whole, which holds every part whose attention is recorded.
    backbone: images (B, 3, H, W) -> Features.
    head:     Features -> the output, of any type.
    score:    (output, target) -> (B,), what is explained.
    targets:  output -> what can be asked about, the likeliest first.
    reads:    (output, target) -> the set of tokens that this target is read off, and its number in it, as in a
              decoder with queries; None where the head reads the features themselves.
    """

    model: nn.Module
    backbone: Callable[[Tensor], Features]
    head: Callable[[Features], Any]
    score: Score
    targets: Callable[[Any], Sequence[Any]]
    reads: Callable[[Any, Any], tuple[str, int]] | None = None

    def choose(self, output: Any, target: Any) -> Any:
        """The target, or the likeliest one where none is given. Raises ExplainError where there is none at all."""
        if target is not None:
            return target
        candidates = self.targets(output)
        if not len(candidates):
            raise ExplainError("the model's answer holds nothing that could be explained: no target was found in it")
        return candidates[0]

    def scores(self, output: Any, target: Any) -> Tensor:
        """The scores (B,). Raises ExplainError for another shape."""
        score = self.score(output, target)
        if not isinstance(score, Tensor) or score.ndim != 1:
            shape = tuple(score.shape) if isinstance(score, Tensor) else type(score).__name__
            raise ExplainError(f"a score is one number for each input, a tensor of shape (B,), not {shape}")
        return score


def explained(model: nn.Module, wanted: Any = None) -> ExplainedModel:
    """A model of vitrail with its backbone, its head, and what its task says of its output.

    wanted: the target, as the task names or numbers it; the likeliest unless given. Raises ExplainError for what is not
    a model of vitrail's that answers about images, ModelError for a task whose answers have no score.
    """
    config = config_of(model)
    if not hasattr(model, "backbone") or not hasattr(model, "head"):
        raise _foreign(model)
    task = task_of(config)
    targets = task.require("targets")

    def candidates(output: Any) -> Sequence[Any]:
        numbers = targets(model, output, wanted)[0]
        return [numbers] if len(numbers) else ()

    return ExplainedModel(model=model, backbone=model.get_submodule("backbone"), head=model.get_submodule("head"),
                          score=task.require("score"), targets=candidates, reads=task.reads)


def config_of(model: nn.Module) -> ModelConfig:
    """The config of a model of vitrail's. Raises ExplainError for others."""
    config = getattr(model, "config", None)
    if not isinstance(config, ModelConfig):
        raise _foreign(model)
    return config


def _foreign(model: nn.Module) -> ExplainError:
    return ExplainError(f"explain takes a model of vitrail that answers about images (create_model, load_model), not a "
                        f"{type(model).__name__}; record(model) shows the attention of any module, and explain_tokens "
                        "explains any network by a score")


def slopes(score: Tensor, tensors: Sequence[Tensor], *, retain: bool = False) -> list[Tensor]:
    """The gradient of each input's score (B,), at each of the tensors; zeros where it does not depend on one.

    Raises ExplainError where it is zero everywhere. retain: keeps the graph, for the next score.
    """
    gradients = torch.autograd.grad(score.sum(), tensors, allow_unused=True, retain_graph=retain) \
        if score.requires_grad else [None] * len(tensors)
    if not any(g is not None and g.any() for g in gradients):
        raise ExplainError(FLAT)
    return [torch.zeros_like(t) if g is None else g for t, g in zip(tensors, gradients, strict=True)]


FLAT = ("the answer's gradient is zero everywhere: the model gives this target the same score whatever it sees, as a "
        "new head does, or the layer chosen comes too late to matter. Load trained weights, take method='rollout', or "
        "an earlier layer")
