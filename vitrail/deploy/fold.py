"""Fewer operations for the same answers: norms and gains that only scale a layer's channels, folded into the layer.

A batch norm in evaluation is a gain and a shift a channel, LayerScale is a gain. Behind a convolution or a linear
layer, either is that layer with other weights; before one that sees no padding, so is a batch norm. What stands behind
what is not read off the names of parts: the model is run once, and the values that pass between them are followed.
"""
import copy
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from vitrail.core.config import ModelConfig
from vitrail.core.errors import ExportError
from vitrail.deploy.inputs import ModelInputs
from vitrail.deploy.structure import leaves_of
from vitrail.nn import Backbone, Features, Scale

TOLERANCE = 1e-4        # of the range of the model's answers
_Layer = nn.Conv2d | nn.Linear
# steps of the graph that hand on the values they are given
_VIEWS = ("View", "UnsafeView", "ReshapeAlias", "Permute", "Transpose", "T", "Squeeze", "Unsqueeze", "Alias")


@torch.no_grad()
def folded(model: nn.Module, example: Any = None, *, tolerance: float = TOLERANCE) -> nn.Module:
    """A copy for inference, in evaluation mode, with every batch norm and LayerScale gain folded where that is exact.

    The copy answers `example`, a tensor or a structure of tensors, before it is returned: each of its maps and answers
    within `tolerance` of the range of the model's, which must be in float32. Unless given, the example is noise at the
    size that the model's task names.
    Raises ExportError where it does not, which is a mistake of vitrail's, and where the model cannot be run.
    """
    made = copy.deepcopy(model).eval().requires_grad_(False)
    inputs = _noise(model) if example is None else leaves_of(example)
    try:
        before = answers(made, inputs)
        while found := _foldable(made, inputs):                  # a gain behind a norm takes a second turn
            for one in found:
                one.fold()
                _replace(made, one.scales)
        after = answers(made, inputs)
    except (RuntimeError, TypeError, ValueError, AttributeError, IndexError) as e:
        raise ExportError(f"the model cannot be folded: {' '.join(str(e).split())[:300]}") from e
    for there, here in zip(before, after, strict=True):
        scale, apart = float(there.max() - there.min()), float((there - here).abs().max())
        if not apart <= tolerance * scale:                      # nan is not
            raise ExportError(f"the folded copy does not answer like the model: the largest difference is {apart:.3g} "
                              f"where answers range over {scale:.3g}")
    return made


def _noise(model: nn.Module) -> list[Tensor]:
    config = getattr(model, "config", None)
    if not isinstance(config, ModelConfig):
        raise ExportError(f"give folded(model, example) an example that this {type(model).__name__} takes: only a "
                          "model of vitrail says its own size")
    generator = torch.Generator().manual_seed(0)
    device = next(model.parameters()).device
    return [(torch.randn(leaf.shape, generator=generator) if leaf.is_floating_point() else leaf).to(device)
            for leaf in ModelInputs(config).example(1)]


def answers(model: nn.Module, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Everything that a model answers: its maps, its tokens without a place, its output. A new head may say 0."""
    kept: list[Tensor] = []

    def keep(module: nn.Module, args: Any, out: Any) -> None:
        if isinstance(out, Features):
            kept.extend((*out.maps, *([] if out.prefix is None else [out.prefix])))
    with ExitStack() as stack:
        for part in model.modules():
            if isinstance(part, Backbone):
                stack.callback(part.register_forward_hook(keep).remove)
        kept.extend(leaf for leaf in leaves_of(model(*inputs)) if leaf.is_floating_point())
    return kept


@dataclass(frozen=True)
class _Fold:
    """What scales channels, the layer it goes into, and whether it stood before that layer."""

    scales: nn.Module
    layer: _Layer
    ahead: bool

    def fold(self) -> None:
        gain, shift = _affine(self.scales)
        weight, bias = self.layer.weight.double(), self.layer.bias
        offset = torch.zeros_like(weight[:, 0].flatten(1)[:, 0]) if bias is None else bias.double()
        if self.ahead:                                          # W (g x + s) + b = (W g) x + (W s + b)
            offset = offset + weight.reshape(len(weight), len(shift), -1).sum(-1) @ shift
            weight = weight * gain.view(1, -1, *(1,) * (weight.ndim - 2))
        else:                                                   # g (W x + b) + s = (g W) x + (g b + s)
            offset = gain * offset + shift
            weight = weight * gain.view(-1, *(1,) * (weight.ndim - 1))
        self.layer.weight = nn.Parameter(weight.to(self.layer.weight.dtype), requires_grad=False)
        self.layer.bias = nn.Parameter(offset.to(self.layer.weight.dtype), requires_grad=False)


def _affine(part: nn.Module) -> tuple[Tensor, Tensor]:
    """Gain and shift of a part's channels, in float64."""
    if isinstance(part, Scale):
        return part.gamma.double(), torch.zeros_like(part.gamma, dtype=torch.float64)
    assert isinstance(part, _BatchNorm) and part.running_mean is not None and part.running_var is not None
    gain = (part.running_var.double() + part.eps).rsqrt()
    gain = gain if part.weight is None else gain * part.weight.double()
    shift = -part.running_mean.double() * gain
    return gain, shift if part.bias is None else shift + part.bias.double()


@dataclass
class _Seen:
    """What passed through a part: once, or it is not folded."""

    calls: int = 0
    given: Tensor | None = None
    out: Tensor | None = None


@dataclass
class _Run:
    """One run of a model: of each layer and each part that scales, what it was given and what it answered."""

    seen: dict[nn.Module, _Seen] = field(default_factory=lambda: defaultdict(_Seen))
    users: dict[Any, list[Any]] = field(default_factory=lambda: defaultdict(list))  # a step of the graph -> those after

    def watch(self, model: nn.Module, inputs: Sequence[Tensor]) -> None:
        def note(part: nn.Module, args: tuple[Any, ...], out: Any) -> None:
            seen = self.seen[part]
            seen.calls += 1
            seen.given, seen.out = args[0], out
        with ExitStack() as stack, torch.enable_grad():
            for part in model.modules():
                if isinstance(part, _Layer) or _scales(part):
                    stack.callback(part.register_forward_hook(note).remove)
            output = model(*(leaf.clone().requires_grad_() if leaf.is_floating_point() else leaf for leaf in inputs))
        waiting = [leaf.grad_fn for leaf in leaves_of(output) if leaf.grad_fn is not None]
        met = set(waiting)
        while waiting:
            step = waiting.pop()
            for before, _ in step.next_functions:
                if before is not None:
                    self.users[before].append(step)
                    if before not in met:
                        met.add(before)
                        waiting.append(before)

    def feeds(self, one: nn.Module, other: nn.Module) -> bool:
        """Whether what `one` answered is what `other` was given, channel by channel, and nobody else was given it."""
        out, given = self.seen[one].out, self.seen[other].given
        if out is None or given is None or not _same(out, given):
            return False
        step = (out if out._base is None else out._base).grad_fn
        while len(users := self.users[step]) == 1 and _name(users[0]) in _VIEWS:
            step = users[0]
        return len(users) == 1


def _same(out: Tensor, given: Tensor) -> bool:
    """Whether two tensors are the same memory, with the same channels in their last place (or are one tensor)."""
    if out is given:
        return True
    one, other = (t if t._base is None else t._base for t in (out, given))
    return (one is other and out.numel() == given.numel() and out.shape[-1] == given.shape[-1]
            and out.is_contiguous() and given.is_contiguous() and out.storage_offset() == given.storage_offset())


def _foldable(model: nn.Module, inputs: Sequence[Tensor]) -> list[_Fold]:
    """What scales channels right behind a layer, and of the rest what does so right before one."""
    run = _Run()
    run.watch(model, inputs)
    once = [part for part, seen in run.seen.items() if seen.calls == 1 and not _shared(model, part)]
    layers, scales = [p for p in once if isinstance(p, _Layer)], [p for p in once if _scales(p)]
    found: dict[nn.Module, _Fold] = {}
    for ahead in (False, True):
        for part in (p for p in scales if p not in found):
            channels = len(_affine(part)[0])
            for layer in layers:
                fits = _takes_ahead(layer, channels) if ahead else len(layer.weight) == channels
                if fits and run.feeds(*((part, layer) if ahead else (layer, part))):
                    found[part] = _Fold(part, layer, ahead)
    return list(found.values())


def _takes_ahead(layer: _Layer, channels: int) -> bool:
    """Whether a shift before the layer is one behind it: each answer sees the same weights, no padding among them."""
    if isinstance(layer, nn.Linear):
        return layer.in_features == channels
    return layer.in_channels == channels and layer.groups == 1 and not any(layer.padding)


def _scales(part: nn.Module) -> bool:
    return isinstance(part, Scale) or (isinstance(part, _BatchNorm) and part.running_mean is not None)


def _shared(model: nn.Module, part: nn.Module) -> bool:
    """Whether another part has a tensor of this one."""
    own = {id(p) for p in part.parameters(recurse=False)}
    return any(id(p) in own for other in model.modules() if other is not part
               for p in other.parameters(recurse=False))


def _name(step: Any) -> str:
    return str(step.name()).removesuffix("0").removesuffix("Backward")


def _replace(model: nn.Module, part: nn.Module) -> None:
    """The identity in the place of a part."""
    for parent in model.modules():
        for name, child in parent.named_children():
            if child is part:
                setattr(parent, name, nn.Identity().eval())
