"""Optimizers with groups: what decays, and how fast each depth learns."""
import fnmatch
from collections.abc import Mapping

import torch
from torch import nn

from vitrail.core.errors import SettingsError, did_you_mean
from vitrail.nn import Prefix, Stack
from vitrail.training.lars import LARS


def optimizer(model: nn.Module, *, lr: float, weight_decay: float, betas: tuple[float, float],
              layer_decay: float = 1.0, factors: Mapping[str, float] | None = None, kind: str = "adamw",
              momentum: float = 0.9, nesterov: bool = False) -> torch.optim.Optimizer:
    """An optimizer over all parameters that learn.

    kind: "adamw", fused (Loshchilov & Hutter, arXiv:1711.05101), takes `betas`; "sgd" takes `momentum` and `nesterov`;
    "lars" (`training.lars`) takes `momentum`.

    Tensors of one dimension (biases, norms, gains), position tables and prefix tokens do not decay. A group's
    "share" is its factor on the learning rate, layer_decay ** (levels above it) times that of `factors`, by the first
    pattern that fits the parameter's name; `set_rate` applies it. Raises SettingsError for a pattern that fits none.
    """
    kept = _undecayed(model)
    deep = depths(model) if layer_decay != 1 else {}
    top = max(deep.values(), default=0)
    factors = factors or {}
    names = [name for name, _ in model.named_parameters()]
    for pattern in factors:
        if not fnmatch.filter(names, pattern):
            raise SettingsError(f"the learning rate of {pattern!r} has a factor, and no parameter is called so."
                                f"{did_you_mean(pattern, names)}")
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, p in model.named_parameters():
        if p.requires_grad:
            share = layer_decay ** (top - deep[name]) if deep else 1.0
            share *= next((f for pattern, f in factors.items() if fnmatch.fnmatchcase(name, pattern)), 1.0)
            groups.setdefault((share, 0.0 if name in kept else weight_decay), []).append(p)
    parts = [{"params": ps, "share": share, "weight_decay": decay, "lr": lr * share}
             for (share, decay), ps in groups.items()]
    if kind == "sgd":
        return torch.optim.SGD(parts, lr=lr, momentum=momentum, nesterov=nesterov)
    if kind == "lars":
        return LARS(parts, lr=lr, momentum=momentum)
    return torch.optim.AdamW(parts, lr=lr, betas=betas, fused=True)


def set_rate(chosen: torch.optim.Optimizer, lr: float) -> None:
    for group in chosen.param_groups:
        group["lr"] = lr * group["share"]


def depths(model: nn.Module) -> dict[str, int]:
    """How deep each parameter lies: k inside the k-th part of the Stacks, counted over the whole network; outside,
    0 before the first part and one more than the parts so far after it (Bao et al., arXiv:2106.08254, section 3.2).

    A part that holds Stacks itself (a stage) does not count: its parts do. Walks the order of registration.
    """
    parts = [f"{name}.{key}.".lstrip(".") for name, stack in model.named_modules() if isinstance(stack, Stack)
             for key, part in stack.named_children() if not any(isinstance(m, Stack) for m in part.modules())]
    out: dict[str, int] = {}
    number: dict[str, int] = {}
    for name, _ in model.named_parameters():
        inside = next((p for p in parts if name.startswith(p)), None)
        if inside is not None:
            out[name] = number.setdefault(inside, len(number) + 1)
        else:
            out[name] = len(number) + 1 if number else 0
    return out


def _undecayed(model: nn.Module) -> set[str]:
    """Parameters without weight decay."""
    prefixes = {id(m.tokens) for m in model.modules() if isinstance(m, Prefix)}
    # every word of positions, over places or over offsets, calls what it learned its table
    return {name for name, p in model.named_parameters()
            if p.ndim <= 1 or id(p) in prefixes or name.rpartition(".")[2] == "table"}
