"""Every attention map of a model, seen while it runs; the answers stay as they are, bit for bit."""
import fnmatch
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from vitrail.core.errors import ExplainError, did_you_mean
from vitrail.nn import Attend, Backbone, Features, Shown, TokenSets, Visible, Within


@dataclass(frozen=True, kw_only=True, eq=False)
class Layer:
    """What one Visible leaf showed in one call.

    weights: (B, H, N, M) over all tokens, or (B, G, H, n, n) in G groups.
    queries: the name of the set of N tokens that ask; keys: that of the M tokens that are looked at.
    groups:  the mixer's partition (Windows, Reduced, Channels, Within), or None where all tokens are attended.
             With Reduced, the M keys are cells of the map.
    grid:    height and width of the map of tokens; None where it is not known. Other tokens come before it.
    """

    name: str                       # the leaf's path in the model
    mixer: str                      # the path of the module that attends
    call: int                       # which call of a mixer this belongs to, counted over the run
    step: int                       # how many times this mixer was called before in this run
    stepwise: bool                  # each step is the next of the queries, as in a recurrent decoder
    queries: str
    keys: str
    weights: Tensor
    groups: Any
    grid: tuple[int, int] | None
    shown: bool                     # weights a mechanism made in its own way, which stand over its softmaxes
    probe: bool                     # asked by a token of the readout's own


class Recording:
    """The maps of the model's latest run, by the path of the leaf that showed them, in order of execution.

    A leaf that ran twice in one run gives its last map by name, and both in `layers`.
    """

    def __init__(self, limit: int):
        self._layers: list[Layer] = []
        self._calls: Counter[str] = Counter()           # of each mixer
        self._limit, self._bytes = limit, 0

    @property
    def layers(self) -> tuple[Layer, ...]:
        return tuple(self._layers)

    def names(self) -> list[str]:
        return list(dict.fromkeys(layer.name for layer in self._layers))

    def items(self) -> list[tuple[str, Tensor]]:
        return [(name, self[name]) for name in self.names()]

    def __getitem__(self, name: str) -> Tensor:
        for layer in reversed(self._layers):
            if layer.name == name:
                return layer.weights
        if not self._layers:
            raise ExplainError("nothing was recorded: run the model inside the block, in the thread that opened it")
        raise ExplainError(f"no map was recorded under {name!r}.{did_you_mean(name, self.names())} "
                           f"There are {len(self.names())}: `names()` lists them.")

    def __contains__(self, name: object) -> bool:
        return any(layer.name == name for layer in self._layers)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __len__(self) -> int:
        return len(self.names())

    def _clear(self) -> None:
        self._layers.clear()
        self._calls.clear()
        self._bytes = 0

    def _enter(self, mixer: str) -> tuple[int, int]:
        """Notes a call of a mixer: its number in this run, from 1, and how many of this mixer came before it."""
        step = self._calls[mixer]
        self._calls[mixer] += 1
        return self._calls.total(), step

    def _add(self, layer: Layer) -> None:
        self._bytes += layer.weights.numel() * layer.weights.element_size()
        if self._bytes > self._limit:
            self._clear()
            raise ExplainError(f"the attention maps of this run take more than {self._limit / 2**30:g} GiB (reached at "
                               f"{layer.name}): record fewer layers (layers='...'), in half precision "
                               "(dtype=torch.float16), a smaller batch, or raise limit_gb")
        self._layers.append(layer)

    def _place(self, features: Features) -> None:
        """Gives layers that saw a sequence the grid of the map that it became."""
        prefix = 0 if features.prefix is None else features.prefix.shape[1]
        for i, layer in enumerate(self._layers):
            if layer.grid is None and layer.groups is None and layer.keys == TokenSets.keys:
                keys = layer.weights.shape[-1]
                grid = next(((m.shape[1], m.shape[2]) for m in features.maps
                             if keys - m.shape[1] * m.shape[2] in (0, prefix)), None)
                self._layers[i] = replace(layer, grid=grid)


@contextmanager
def record(model: nn.Module, *, gradients: bool = False, layers: str = "*", device: torch.device | str | None = None,
           dtype: torch.dtype | None = None, limit_gb: float = 4.0) -> Iterator[Recording]:
    """Within: each run of `model` in this thread fills the `Recording` anew; afterwards the model is as it was.

    The maps are computed beside the fused kernels, so that the answers stay bit-identical, and are detached. With
    `gradients` they stand in the path of the gradient instead: the kernels are then not used.

    layers: only leaves whose path matches this pattern ("*blocks.11*"). device, dtype: where and how maps are kept.
    limit_gb: how much they may take, in GiB.

    Raises ExplainError for a model without attention, a compiled one, a pattern that fits nothing, and too many maps.
    """
    leaves = _leaves(model, layers)
    if gradients and (device is not None or dtype is not None):
        raise ExplainError("maps recorded with gradients stay where and as they are: leave out device and dtype")
    recording = Recording(int(limit_gb * 2**30))
    thread = threading.get_ident()
    entered: dict[str, _Call] = {}                      # the latest call of each mixer

    def in_this_thread(act: Callable[..., None]) -> Callable[..., None]:
        return lambda *args: act(*args) if threading.get_ident() == thread else None

    def entering(mixer: str) -> Callable[..., None]:
        def act(module: nn.Module, args: tuple[Any, ...]) -> None:
            grid, probe = _grid(args[0] if args else None, getattr(module, "groups", None))
            entered[mixer] = _Call(*recording._enter(mixer), grid, probe)
        return in_this_thread(act)

    def showing(name: str, mixer: str) -> Callable[..., None]:
        groups = getattr(model.get_submodule(mixer), "groups", None)
        sets = getattr(model.get_submodule(mixer), "token_sets", None) or TokenSets()

        def act(leaf: nn.Module, args: tuple[Any, ...], weights: Tensor) -> None:
            call = entered.get(mixer, _Call(0, 0, None, False))
            if not gradients:
                weights = weights.detach().to(device=device, dtype=dtype)
            elif torch.is_grad_enabled() and not weights.requires_grad:
                weights.requires_grad_()            # nothing before them learns, as in a frozen model of text
            queries = "probe" if call.probe else sets.queries
            recording._add(Layer(name=name, mixer=mixer, call=call.number, step=call.step, stepwise=sets.stepwise,
                                 queries=queries, keys=sets.keys, weights=weights, groups=groups, grid=call.grid,
                                 shown=isinstance(leaf, Shown), probe=call.probe))
        return in_this_thread(act)

    def leaving(module: nn.Module, args: tuple[Any, ...], out: Any) -> None:
        if isinstance(out, Features):
            recording._place(out)

    with ExitStack() as stack:
        def hook(handle: Any) -> None:
            stack.callback(handle.remove)
        hook(model.register_forward_pre_hook(in_this_thread(lambda *_: recording._clear())))
        for mixer in dict.fromkeys(owner for _, owner in leaves.values()):
            hook(model.get_submodule(mixer).register_forward_pre_hook(entering(mixer)))
        for name, (leaf, mixer) in leaves.items():
            hook(leaf.register_forward_hook(showing(name, mixer)))
        for module in model.modules():
            if isinstance(module, Backbone):
                hook(module.register_forward_hook(in_this_thread(leaving)))
        for name in leaves:
            parent = model.get_submodule(name.rpartition(".")[0])
            if isinstance(parent, Attend):
                stack.enter_context(_switched(parent, gradients))
        yield recording


@dataclass(frozen=True)
class _Call:
    """One call of a mixer: its number in the run, how many came before it of this mixer, and what its input tells."""

    number: int
    step: int
    grid: tuple[int, int] | None
    probe: bool


def _leaves(model: nn.Module, pattern: str) -> dict[str, tuple[nn.Module, str]]:
    """Every Visible leaf that matches: its path -> itself and the path of its mixer."""
    if hasattr(model, "_orig_mod"):
        raise ExplainError("a compiled model cannot be recorded: the compiler leaves out what is watched. Record the "
                           "model it was compiled from")
    every = {name: part for name, part in model.named_modules() if isinstance(part, Visible)}
    if not every:
        raise ExplainError(f"{type(model).__name__} has no attention to record. Grad-CAM explains it all the same: "
                           "explain(model, image, method='gradcam')")
    chosen = {name: part for name, part in every.items() if fnmatch.fnmatchcase(name, pattern)}
    if not chosen:
        raise ExplainError(f"no attention of this model matches {pattern!r}.{did_you_mean(pattern, every)} "
                           f"The first is {next(iter(every))!r}.")
    leaves: dict[str, tuple[nn.Module, str]] = {}
    for name, part in chosen.items():
        mixer = name.rpartition(".")[0]
        if mixer and isinstance(model.get_submodule(mixer), Attend):
            mixer = mixer.rpartition(".")[0]
        leaves[name] = part, mixer
    return leaves


def _grid(entered: Any, groups: Any) -> tuple[tuple[int, int] | None, bool]:
    """The grid that a mixer's input tells of, and whether it is a readout's probe that asks."""
    if isinstance(entered, Features):
        h, w = entered.maps[-1].shape[1:3]
        return (h, w), True
    if isinstance(entered, Tensor) and entered.ndim == 4 and not isinstance(groups, Within):
        return (entered.shape[1], entered.shape[2]), False
    return None, False


@dataclass
class _Switch:
    fused: bool
    watched: bool
    watchers: int = 0
    gradients: int = 0


_SWITCHES: WeakKeyDictionary[Attend, _Switch] = WeakKeyDictionary()
_LOCK = threading.Lock()


@contextmanager
def _switched(attend: Attend, gradients: bool) -> Iterator[None]:
    """Shows an Attend's weights while anybody looks, and leaves it as the first one found it when the last one goes."""
    def turn(by: int) -> None:
        with _LOCK:
            switch = _SWITCHES.setdefault(attend, _Switch(attend.fused, attend.watched))
            switch.watchers += by
            switch.gradients += by * gradients
            attend.watched = switch.watched or switch.watchers > 0
            attend.fused = switch.fused and not switch.gradients
            if not switch.watchers:
                del _SWITCHES[attend]
    turn(1)
    try:
        yield
    finally:
        turn(-1)
