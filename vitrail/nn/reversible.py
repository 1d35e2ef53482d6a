"""Layers whose inputs follow from their outputs, so that a stack of them keeps no activations for its backward pass.

Gomez et al., "The Reversible Residual Network", NeurIPS 2017, arXiv:1707.04585.
"""
import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.func import functional_call
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
class _Run:
    """What a part's second run needs to be like the first: its parameters' places among the stack's, the states of the
    random generators, and the choices."""

    params: dict[str, int]
    random: Tensor
    devices: list[int]
    states: list[Tensor]
    choices: list[Tensor]


def _first(part: nn.Module, x: Tensor, index: Mapping[nn.Parameter, int]) -> tuple[Tensor, _Run]:
    run = _Run({name: index[p] for name, p in part.named_parameters()}, torch.get_rng_state(), *get_device_states(x),
               choices=[])

    def keep(leaf: nn.Module, args: Any, chosen: Tensor) -> None:
        run.choices.append(chosen)
    with _hooked(part, keep):
        return part(x), run


def _second(part: nn.Module, x: Tensor, run: _Run, params: dict[str, Tensor]) -> Tensor:
    choices, kind = iter(run.choices), x.device.type

    def put(leaf: nn.Module, args: Any, chosen: Tensor) -> Tensor:
        return next(choices)
    with torch.random.fork_rng(devices=run.devices, device_type=kind), _hooked(part, put), _once(part):
        torch.set_rng_state(run.random)
        set_device_states(run.devices, run.states, device_type=kind)
        return functional_call(part, params, (x,))


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
    """y1 = x1 + f(x2), y2 = x2 + g(y1) (section 3.1): two streams of one shape, each changed by the other alone."""

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
        for layer in self.layers():
            x1, x2 = layer(x1, x2)
        return x1, x2

    def inverse(self, y1: Tensor, y2: Tensor) -> tuple[Tensor, Tensor]:
        """The inputs of these outputs, as `Reversible.inverse`."""
        for layer in reversed(self.layers()):
            y1, y2 = layer.inverse(y1, y2)
        return y1, y2

    def layers(self) -> list[Reversible]:
        return cast(list[Reversible], list(self))


class _Reversed(torch.autograd.Function):
    """The whole stack as one step of the graph, which saves its outputs and the parameters it ran with."""

    @staticmethod
    def forward(ctx: Any, stack: ReversibleStack, x1: Tensor, x2: Tensor, *params: Tensor) -> tuple[Tensor, Tensor]:
        kind, index = x1.device.type, {p: i for i, p in enumerate(stack.parameters())}
        ctx.layers, ctx.runs = stack.layers(), []
        ctx.cast = dict(device_type=kind, enabled=torch.is_autocast_enabled(kind), dtype=torch.get_autocast_dtype(kind),
                        cache_enabled=False)            # a copy cast here, without gradient, must not be used again
        with torch.autocast(**ctx.cast):
            for layer in ctx.layers:
                change, f = _first(layer.f, x2, index)
                x1 = x1 + change
                change, g = _first(layer.g, x1, index)
                x2 = x2 + change
                ctx.runs.append((f, g))
        ctx.save_for_backward(x1, x2, *params)
        return x1, x2

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d1: Tensor, d2: Tensor) -> tuple[Tensor | None, ...]:
        y1, y2, *params = ctx.saved_tensors
        grads: list[Tensor | None] = [None] * len(params)

        def pull(part: nn.Module, run: _Run, x: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
            """part(x), and x's share of the gradient d; the parameters' shares are added to `grads`."""
            x = x.detach().requires_grad_()
            with torch.enable_grad(), torch.autocast(**ctx.cast):
                y = _second(part, x, run, {name: params[i] for name, i in run.params.items()})
            learned = [i for i in run.params.values() if params[i].requires_grad]
            dx, *found = torch.autograd.grad(y, [x, *(params[i] for i in learned)], d.to(y.dtype),
                                             allow_unused=True, materialize_grads=True)
            for i, gradient in zip(learned, found, strict=True):
                before = grads[i]
                grads[i] = gradient if before is None else before + gradient
            return y.detach(), dx

        for layer, (f, g) in zip(reversed(ctx.layers), reversed(ctx.runs), strict=True):
            change, dx = pull(layer.g, g, y1, d2)
            x2, d1 = y2 - change, d1 + dx
            change, dx = pull(layer.f, f, x2, d1)
            y1, y2, d2 = y1 - change, x2, d2 + dx
        return None, d1, d2, *grads
