"""The four methods: from a model and prepared images to a map (B, h, w) over image tokens.

Each is written once for all models and for all tasks: the features say what the maps are, the recorded layers who
looked at whom, and the score what is to be explained.
"""
import fnmatch
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vitrail.core.errors import ExplainError, did_you_mean
from vitrail.explanation.explained import FLAT, ExplainedModel, slopes
from vitrail.explanation.record import Layer, Recording, record
from vitrail.explanation.relations import Rule, relate, relevance_rule, rollout_rule
from vitrail.explanation.tokens import (IMAGE, Share, Step, attended, carry, normalised, plain, read_by, readout,
                                        residual, sites, walk)
from vitrail.nn import Attend, Channels, Features, Visible, Within

Path = list[tuple[Layer, Tensor]]                       # layers, each with its attention, one for all heads


@dataclass(frozen=True, eq=False)
class Attribution:
    """A map (B, h, w) over the model's input, the output, and the target explained, as its score takes it."""

    map: Tensor
    output: Any
    target: Any


def rollout(model: ExplainedModel, image: Tensor, target: Any = None) -> Attribution:
    """Attention rollout (Abnar & Zuidema, arXiv:2005.00928, section 3): the same map for every target.

    Heads are averaged, the residual is added as the identity, rows are normalised, the later layer stands on the left.
    """
    with torch.no_grad(), record(model.model) as recording:
        features, output = run(model, image)
        target = model.choose(output, target)
    path = [(layer, layer.weights.mean(-3)) for layer in attending(model, recording)]
    return Attribution(_carried(model, features, output, target, path, normalised, rollout_rule), output, target)


def relevance(model: ExplainedModel, image: Tensor, target: Any = None) -> Attribution:
    """Gradient-weighted relevance (Chefer et al., arXiv:2103.15679, equations 5 and 6), for the target's score.

    Ā = mean over heads of (∇A ⊙ A)⁺, R <- R + Ā R from R = I; equations 7 to 11 where a decoder asks (`relations`).
    """
    with torch.enable_grad(), record(model.model, gradients=True) as recording:
        features, output = run(model, image.detach().requires_grad_())
        target = model.choose(output, target)
        score = model.scores(output, target)
    layers = attending(model, recording)
    path = weighted(layers, slopes(score, [layer.weights for layer in layers]))
    detached = Features(tuple(m.detach() for m in features.maps),
                        None if features.prefix is None else features.prefix.detach())
    return Attribution(_carried(model, detached, output, target, path, residual, relevance_rule), output, target)


def weighted(layers: Sequence[Layer], gradients: Sequence[Tensor]) -> Path:
    """Each layer with its attention weighted by the gradient (arXiv:2103.15679, equation 5)."""
    return [(layer, (gradient * layer.weights.detach()).clamp(min=0).mean(-3))
            for layer, gradient in zip(layers, gradients, strict=True)]


def attention(model: ExplainedModel, image: Tensor, target: Any = None, *, layer: int | str | None = None,
              head: int | None = None) -> Attribution:
    """What one layer looks at, as it is: the row of the token that the answer is read off.

    Where no such token takes part, the mean over the layer's tokens. layer: its number among those that attend image
    tokens (-1 is the last), or its name; head: one head, or the mean of all.
    """
    with torch.no_grad(), record(model.model) as recording:
        features, output = run(model, image)
        target = model.choose(output, target)
        layers = [site for site in attending(model, recording) if site.keys == IMAGE]
    site = _pick(layers, layer, recording)
    heads = site.weights.shape[-3]
    if head is not None and not 0 <= head < heads:
        raise ExplainError(f"{site.mixer} has {heads} heads, 0 to {heads - 1}, and head {head} was asked for")
    weights = site.weights.mean(-3) if head is None else site.weights.select(-3, head)
    if site.queries != IMAGE and not site.probe:                            # a decoder's token looks at the image
        assert model.reads is not None
        name, index = model.reads(output, target)
        if name != site.queries:
            raise ExplainError(f"in {site.mixer} tokens of the set {site.queries!r} look at the image, and this answer "
                               f"is read off one of {name!r}: name another layer")
        return Attribution(as_map(weights[:, index, :, None], features)[..., 0], output, target)
    return Attribution(looked(readout(reader(model, target), features), site, weights), output, target)


def looked(share: Share, site: Layer, weights: Tensor) -> Tensor:
    """One layer's look (B, [G,] N, M) from the tokens of the share, or from all where these take no part: (B, h, w)."""
    assert site.grid is not None
    h, w = site.grid
    joined = site.groups is None and weights.shape[-1] > h * w
    if not site.probe and not (joined and share.prefix.any()):
        everywhere = share.map.new_full((share.map.shape[0], 1, h, w), 1 / (h * w))
        share = Share(torch.zeros_like(share.prefix), everywhere)
    return carry(share, site, weights.float(), plain).map[:, 0]


def gradcam(model: ExplainedModel, image: Tensor, target: Any = None, *,
            layer: int | str | None = None) -> Attribution:
    """Grad-CAM (Selvaraju et al., arXiv:1610.02391, equations 1 and 2) at the coarsest map that the answer depends on.

    Where the score reads a map, that one; where it reads a token, the input of the last attention by which that token
    still reads the patches, as long as they lie on a map. layer: the module whose input is taken instead, by its name,
    or the number of an attention in the order of the model's parts.
    """
    entered: list[Tensor] = []
    given = image.detach().requires_grad_()

    def entering(module: nn.Module, args: tuple[Any, ...]) -> None:
        if type(module) is nn.Conv2d or (args and args[0] is given):
            raise ExplainError(f"{layer} takes images, not tokens or a map: Grad-CAM needs a later layer")
        if args and isinstance(args[0], Tensor):
            entered.append(args[0])

    handles = [part.register_forward_pre_hook(entering) for part in _mixers(model.model, layer)]
    try:
        with torch.enable_grad():
            features, output = run(model, given)
            target = model.choose(output, target)
            score = model.scores(output, target)
    finally:
        for handle in handles:
            handle.remove()
    at = entered[-1] if entered else None
    if layer is None:                                       # rows of tokens pooled together lie on no map
        on_map = [x for x in entered if x.ndim == 4 or grid_in(x, features)]
        read = read_by(reader(model, target), features)[1]
        at = on_map[-1] if read is None and on_map else read
    if at is None:
        raise ExplainError("the answer depends on no map that Grad-CAM could weigh")
    slope, = slopes(score, [at])
    at, slope = (as_map(t.detach().float(), features) for t in (at, slope))             # (B, h, w, C)
    if not slope.any():                                     # behind the last look at the patches only a token matters
        raise ExplainError(FLAT)
    weight = slope.mean((1, 2), keepdim=True)                                           # (B, 1, 1, C)
    return Attribution((weight * at).sum(-1).clamp(min=0), output, target)


def run(model: ExplainedModel, image: Tensor) -> tuple[Features, Any]:
    """The features of an image and the output that the head makes of them, with deterministic parts only."""
    with evaluating(model.model):
        features = model.backbone(image)
        return features, model.head(features)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Within: evaluation mode; afterwards every part is in the mode in which it was."""
    before = [(part, part.training) for part in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for part, mode in before:
            part.training = mode


def attending(model: ExplainedModel, recording: Recording) -> list[Layer]:
    """The layers to follow: of every token set where it is known which token an answer is read off."""
    layers = sites(recording.layers) if model.reads is None else attended(recording.layers)
    if not layers:
        raise ExplainError("this model's attention is never between image tokens; 'gradcam' explains it")
    return layers


def reader(model: ExplainedModel, target: Any) -> Callable[[Features], Tensor]:
    """The target's score by the features, to find out which of them it reads."""
    def score(features: Features) -> Tensor:
        with evaluating(model.model):
            return model.scores(model.head(features), target)
    return score


def _carried(model: ExplainedModel, features: Features, output: Any, target: Any, path: Path, step: Step,
             rule: Rule) -> Tensor:
    """What the answer's tokens hold of each image token: (B, h, w)."""
    if model.reads is None:
        return walk(readout(reader(model, target), features), path, step).map[:, 0]
    name, index = model.reads(output, target)
    matrices = relate(path, rule)
    if (name, IMAGE) not in matrices:
        raise ExplainError(f"no attention leads from the tokens {name!r}, which the answer is read off, to the image; "
                           "'gradcam' may apply")
    held = matrices[name, IMAGE]                                                        # (B, N, M)
    if not -held.shape[1] <= index < held.shape[1]:
        raise ExplainError(f"the answer is read off token {index} of {name!r}, which has {held.shape[1]} tokens")
    return as_map(held[:, index, :, None], features)[..., 0]


def as_map(x: Tensor, features: Features) -> Tensor:
    """Tokens (B, P + h·w, C) without those that have no place, as a map (B, h, w, C); a map as it is."""
    if x.ndim == 4:
        return x
    if (grid := grid_in(x, features)) is None:
        raise ExplainError(f"values of shape {tuple(x.shape)} are not a map and not a sequence of this model's tokens")
    return x[:, x.shape[1] - grid[0] * grid[1]:].unflatten(1, grid)


def grid_in(x: Tensor, features: Features) -> tuple[int, int] | None:
    """Height and width of the map that a sequence (B, P + h·w, C) of this model ends in, or None."""
    prefix = 0 if features.prefix is None else features.prefix.shape[1]
    return next(((m.shape[1], m.shape[2]) for m in features.maps
                 if x.ndim == 3 and x.shape[1] - m.shape[1] * m.shape[2] in (0, prefix)), None)


def _pick(layers: list[Layer], which: int | str | None, recording: Recording) -> Layer:
    if which is None:
        return layers[-1]
    if isinstance(which, str):
        for site in layers:
            if which in (site.mixer, site.name):
                return site
        names = [site.mixer for site in layers]
        if which in recording or which in [layer.mixer for layer in recording.layers]:
            raise ExplainError(f"{which} does not attend between image tokens. These do: {', '.join(names)}.")
        raise ExplainError(f"there is no attention {which!r}.{did_you_mean(which, names)} There is: "
                           f"{', '.join(names)}.")
    if not -len(layers) <= which < len(layers):
        raise ExplainError(f"there is no layer {which}: {len(layers)} layers attend image tokens, "
                           f"0 to {len(layers) - 1}")
    return layers[which]


def _mixers(model: nn.Module, layer: int | str | None) -> list[nn.Module]:
    """The modules whose input Grad-CAM may be taken at: the one named, or every one that attends image tokens."""
    parts = dict(model.named_modules())
    if isinstance(layer, str):
        if layer not in parts or not layer:
            close = fnmatch.filter(parts, f"*{layer}*")
            raise ExplainError(f"there is no module {layer!r}.{did_you_mean(layer, close or parts)} "
                               "Name one whose input is a map or a sequence of tokens, such as backbone.blocks.3")
        return [parts[layer]]
    leaves = [name.rpartition(".")[0] for name, part in parts.items() if isinstance(part, Visible)]
    tops = dict.fromkeys(name.rpartition(".")[0] if isinstance(parts[name], Attend) else name for name in leaves)
    mixers = [parts[name] for name in tops if not isinstance(getattr(parts[name], "groups", None), Channels | Within)]
    if layer is None:
        return mixers
    if not -len(mixers) <= layer < len(mixers):
        raise ExplainError(f"there is no layer {layer}: {len(mixers)} layers of this model attend image tokens. Name a "
                           "module instead")
    return [mixers[layer]]
