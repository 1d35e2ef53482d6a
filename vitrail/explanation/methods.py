"""The four methods: from a model and prepared images to a map (B, h, w) over image tokens.

Each is written once for all models: the features say what the maps are, the recorded layers say who looked at whom.
"""
import fnmatch
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vitrail.core.errors import ExplainError, did_you_mean
from vitrail.explanation.record import Layer, Seen, record
from vitrail.explanation.tokens import Share, carry, normalised, plain, read_by, readout, residual, sites, walk
from vitrail.nn import Attend, Channels, Features, Visible, Within


FLAT = ("the answer's gradient is zero everywhere: the model gives this class the same score whatever it sees, as a "
        "new head does, or the layer chosen comes too late to matter. Load trained weights, take method='rollout', or "
        "an earlier layer")


@dataclass(frozen=True, eq=False)
class Found:
    """A map (B, h, w) over the model's input, the logits (B, classes) and the class explained (B,)."""

    map: Tensor
    logits: Tensor
    target: Tensor


def rollout(model: nn.Module, image: Tensor, target: int | None = None) -> Found:
    """Attention rollout (Abnar & Zuidema, arXiv:2005.00928, section 3): the same map for every class.

    Heads are averaged, the residual is added as the config, rows are normalised, the later layer stands on the left.
    """
    with torch.no_grad(), record(model) as seen:
        features, logits = run(model, image)
    path = [(layer, layer.weights.mean(-3)) for layer in attending(seen)]
    return Found(_walked(model, features, path, normalised), logits, chosen(logits, target))


def relevance(model: nn.Module, image: Tensor, target: int | None = None) -> Found:
    """Gradient-weighted relevance (Chefer et al., arXiv:2103.15679, equations 5 and 6), for the class's logit.

    Ā = mean over heads of (∇A ⊙ A)⁺, R <- R + Ā R from R = I.
    """
    with torch.enable_grad(), record(model, gradients=True) as seen:
        features, logits = run(model, image.detach().requires_grad_())
    layers, target_ = attending(seen), chosen(logits, target)
    gradients = slopes(logits, target_, [layer.weights for layer in layers])
    path = [(layer, (g * layer.weights.detach()).clamp(min=0).mean(-3))
            for layer, g in zip(layers, gradients, strict=True)]
    detached = Features(tuple(m.detach() for m in features.maps),
                        None if features.prefix is None else features.prefix.detach())
    return Found(_walked(model, detached, path, residual), logits.detach(), target_)


def attention(model: nn.Module, image: Tensor, target: int | None = None, *, layer: int | str | None = None,
              head: int | None = None) -> Found:
    """What one layer looks at, as it is: the row of the token that the answer is read off.

    Where no such token takes part, the mean over the layer's tokens. layer: its number among those that attend image
    tokens (-1 is the last), or its name; head: one head, or the mean of all.
    """
    with torch.no_grad(), record(model) as seen:
        features, logits = run(model, image)
        site = _pick(attending(seen), layer, seen)
    heads = site.weights.shape[-3]
    if head is not None and not 0 <= head < heads:
        raise ExplainError(f"{site.mixer} has {heads} heads, 0 to {heads - 1}, and head {head} was asked for")
    weights = site.weights.mean(-3) if head is None else site.weights.select(-3, head)
    return Found(looked(readout(head_of(model), features), site, weights), logits, chosen(logits, target))


def looked(share: Share, site: Layer, weights: Tensor) -> Tensor:
    """One layer's look (B, [G,] N, M) from the tokens of the share, or from all where these take no part: (B, h, w)."""
    assert site.grid is not None
    h, w = site.grid
    joined = site.groups is None and weights.shape[-1] > h * w
    if not site.probe and not (joined and share.prefix.any()):
        everywhere = share.map.new_full((share.map.shape[0], 1, h, w), 1 / (h * w))
        share = Share(torch.zeros_like(share.prefix), everywhere)
    return carry(share, site, weights.float(), plain).map[:, 0]


def gradcam(model: nn.Module, image: Tensor, target: int | None = None, *, layer: int | str | None = None) -> Found:
    """Grad-CAM (Selvaraju et al., arXiv:1610.02391, equations 1 and 2) at the coarsest map that the answer depends on.

    Where the head reads a map, that one; where it reads a token, the input of the last attention by which that token
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

    handles = [part.register_forward_pre_hook(entering) for part in _mixers(model, layer)]
    try:
        with torch.enable_grad():
            features, logits = run(model, given)
    finally:
        for handle in handles:
            handle.remove()
    at = entered[-1] if entered else None
    if layer is None:                                       # rows of tokens pooled together lie on no map
        on_map = [x for x in entered if x.ndim == 4 or grid_in(x, features)]
        read = read_by(head_of(model), features)[1]
        at = on_map[-1] if read is None and on_map else read
    if at is None:
        raise ExplainError("the answer depends on no map that Grad-CAM could weigh")
    target_ = chosen(logits, target)
    slope, = slopes(logits, target_, [at])
    at, slope = (as_map(t.detach().float(), features) for t in (at, slope))             # (B, h, w, C)
    if not slope.any():                                     # behind the last look at the patches only a token matters
        raise ExplainError(FLAT)
    weight = slope.mean((1, 2), keepdim=True)                                           # (B, 1, 1, C)
    return Found((weight * at).sum(-1).clamp(min=0), logits.detach(), target_)


def run(model: nn.Module, image: Tensor) -> tuple[Features, Tensor]:
    """The features of a classifier and its logits (B, classes), with deterministic parts only."""
    with evaluating(model):
        features = model.get_submodule("backbone")(image)
        return features, head_of(model)(features)


def head_of(model: nn.Module) -> nn.Module:
    return model.get_submodule("head")


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


def attending(seen: Seen) -> list[Layer]:
    found = sites(seen.layers)
    if not found:
        raise ExplainError("this model's attention is never between image tokens; 'gradcam' explains it")
    return found


def chosen(logits: Tensor, target: int | None) -> Tensor:
    return logits.argmax(-1) if target is None else torch.full_like(logits[:, 0], target, dtype=torch.long)


def slopes(logits: Tensor, target: Tensor, of: list[Tensor]) -> list[Tensor]:
    """The gradient of each image's target logit, at each of the tensors; zeros where it does not depend on one."""
    score = logits.gather(1, target[:, None]).sum()
    found = torch.autograd.grad(score, of, allow_unused=True)
    if not any(g is not None and g.any() for g in found):
        raise ExplainError(FLAT)
    return [torch.zeros_like(t) if g is None else g for t, g in zip(of, found, strict=True)]


def as_map(x: Tensor, features: Features) -> Tensor:
    """Tokens (B, P + h·w, C) without those that have no place, as a map (B, h, w, C); a map as it is."""
    if x.ndim == 4:
        return x
    if (grid := grid_in(x, features)) is None:
        raise ExplainError(f"values of shape {tuple(x.shape)} are no map and no sequence of this model's tokens")
    return x[:, x.shape[1] - grid[0] * grid[1]:].unflatten(1, grid)


def grid_in(x: Tensor, features: Features) -> tuple[int, int] | None:
    """Height and width of the map that a sequence (B, P + h·w, C) of this model ends in, or None."""
    prefix = 0 if features.prefix is None else features.prefix.shape[1]
    return next(((m.shape[1], m.shape[2]) for m in features.maps
                 if x.ndim == 3 and x.shape[1] - m.shape[1] * m.shape[2] in (0, prefix)), None)


def _walked(model: nn.Module, features: Features, path: list[tuple[Layer, Tensor]], step: Any) -> Tensor:
    return walk(readout(head_of(model), features), path, step).map[:, 0]


def _pick(layers: list[Layer], which: int | str | None, seen: Seen) -> Layer:
    if which is None:
        return layers[-1]
    if isinstance(which, str):
        for site in layers:
            if which in (site.mixer, site.name):
                return site
        names = [site.mixer for site in layers]
        if which in seen or which in [one.mixer for one in seen.layers]:
            raise ExplainError(f"{which} does not attend between image tokens. These do: {', '.join(names)}.")
        raise ExplainError(f"there is no attention {which!r}.{did_you_mean(which, names)} There is: {', '.join(names)}.")
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
