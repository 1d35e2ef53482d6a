"""Layers whose inputs follow from their outputs, so that a stack of them keeps no activations for its backward pass.

Gomez et al., "The Reversible Residual Network", NeurIPS 2017, arXiv:1707.04585.
"""
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import get_device_states, set_device_states

from vitrail.nn.blocks import _once


class Choice(nn.Module):
    """A leaf for what was chosen: whole numbers without gradient (buckets, an order), which pass as they are.

    An input that is made again from outputs differs by rounding, which could turn a choice. So a reversible layer
    keeps what passed here, the one thing that it does keep, and puts it in the place of what the second pass chose.
    """

    def forward(self, chosen: Tensor) -> Tensor:
        return chosen


@dataclass
class _Pass:
    """What a second run of a part needs to be like the first: the random generators' states, and the choices."""

    random: Tensor
    devices: list[int]
    device_states: list[Tensor]
    choices: list[Tensor]


def _first(part: nn.Module, x: Tensor) -> tuple[Tensor, _Pass]:
    kept = _Pass(torch.get_rng_state(), *get_device_states(x), choices=[])

    def keep(leaf: nn.Module, args: Any, chosen: Tensor) -> None:
        kept.choices.append(chosen)
    with _hooked(part, keep):
        return part(x), kept


def _second(part: nn.Module, x: Tensor, kept: _Pass) -> Tensor:
    choices = iter(kept.choices)

    def put(leaf: nn.Module, args: Any, chosen: Tensor) -> Tensor:
        return next(choices)
    with torch.random.fork_rng(devices=kept.devices, device_type=x.device.type if kept.devices else "cuda"):
        torch.set_rng_state(kept.random)
        set_device_states(kept.devices, kept.device_states, device_type=x.device.type)
        with _hooked(part, put), _once(part):
            return part(x)


@contextlib.contextmanager
def _hooked(part: nn.Module, hook: Any) -> Iterator[None]:
    """Within: `hook` runs behind every Choice below `part`."""
    hooks = [leaf.register_forward_hook(hook) for leaf in part.modules() if isinstance(leaf, Choice)]
    try:
        yield
    finally:
        for handle in hooks:
            handle.remove()


class Reversible(nn.Module):
    """y1 = x1 + f(x2), y2 = x2 + g(y1) (equation 6): two streams of one shape, each changed by the other alone."""

    def __init__(self, f: nn.Module, g: nn.Module):
        super().__init__()
        self.f, self.g = f, g

    def forward(self, x1: Tensor, x2: Tensor) -> tuple[Tensor, Tensor]:
        y1 = x1 + self.f(x2)
        return y1, x2 + self.g(y1)

    def inverse(self, y1: Tensor, y2: Tensor) -> tuple[Tensor, Tensor]:
        """The inputs of these outputs, up to rounding, where f and g draw no random numbers."""
        x2 = y2 - self.g(y1)
        return y1 - self.f(x2), x2


class ReversibleStack(nn.ModuleList):
    """`Reversible` layers in order: (x1, x2) -> (y1, y2), with the memory of one layer however many there are.

    The backward pass takes the layers from the last to the first, makes each one's inputs from its outputs, and runs
    it once more for its gradients, with the random numbers of the first time. The gradients are those of the plain
    stack up to rounding; in half precision, each layer adds its own. They can be taken once (no second derivative),
    and reach nothing that f and g hold besides their parameters. A compiler sees the plain stack.
    """

    def forward(self, x1: Tensor, x2: Tensor) -> tuple[Tensor, Tensor]:
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            y1, y2 = _Reversed.apply(self, x1, x2, *self.parameters())
            return y1, y2
        for layer in self:
            x1, x2 = layer(x1, x2)
        return x1, x2

    def inverse(self, y1: Tensor, y2: Tensor) -> tuple[Tensor, Tensor]:
        """The inputs of these outputs, as `Reversible.inverse`."""
        for layer in reversed(self):
            y1, y2 = layer.inverse(y1, y2)
        return y1, y2


class _Reversed(torch.autograd.Function):
    """The whole stack as one step of the graph, which saves its outputs and, to be told when they change, its
    parameters."""

    @staticmethod
    def forward(ctx: Any, stack: ReversibleStack, x1: Tensor, x2: Tensor, *params: Tensor) -> tuple[Tensor, Tensor]:
        kind = x1.device.type
        ctx.stack, ctx.passes = stack, []
        ctx.cast = dict(device_type=kind, enabled=torch.is_autocast_enabled(kind), dtype=torch.get_autocast_dtype(kind),
                        cache_enabled=False)            # copies cast here, where no gradient flows, would be used again
        with torch.autocast(**ctx.cast):
            for layer in stack:
                change, f = _first(layer.f, x2)
                x1 = x1 + change
                change, g = _first(layer.g, x1)
                x2 = x2 + change
                ctx.passes.append((f, g))
        ctx.save_for_backward(x1, x2, *params)
        return x1, x2

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d1: Tensor, d2: Tensor) -> tuple[Tensor | None, ...]:
        y1, y2, *params = ctx.saved_tensors
        grads: dict[Tensor, Tensor] = {}
        for layer, (f, g) in zip(reversed(ctx.stack), reversed(ctx.passes), strict=True):
            change, d = _pull(layer.g, y1, g, d2, ctx.cast, grads)
            x2, d1 = y2 - change, d1 + d
            change, d = _pull(layer.f, x2, f, d1, ctx.cast, grads)
            y1, y2, d2 = y1 - change, x2, d2 + d
        return None, d1, d2, *(grads.get(p) for p in params)


def _pull(part: nn.Module, x: Tensor, kept: _Pass, d: Tensor, cast: dict[str, Any],
          grads: dict[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """part(x) and the gradient of x, from that of part(x). Adds those of the part's parameters to `grads`."""
    params = [p for p in part.parameters() if p.requires_grad]
    x = x.detach().requires_grad_()
    with torch.enable_grad(), torch.autocast(**cast):
        y = _second(part, x, kept)
    dx, *found = torch.autograd.grad(y, [x, *params], d.to(y.dtype), allow_unused=True)
    for p, gradient in zip(params, found, strict=True):
        if gradient is not None:
            grads[p] = grads[p] + gradient if p in grads else gradient
    return y.detach(), torch.zeros_like(x) if dx is None else dx
