"""Tensors of a checkpoint into a network: to go on training, or to hand it over. Either layout into either strategy."""
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from vitrail.core.errors import CheckpointError
from vitrail.training import sharded
from vitrail.training.engine import Engine
from vitrail.training.state import State
from vitrail.training.tensors import check, decoded, live, put
from vitrail.weights import todays_name

# what each optimizer keeps of a parameter
KEPT = {"adamw": ("step", "exp_avg", "exp_avg_sq"), "sgd": ("momentum_buffer",), "lars": ("momentum_buffer",)}
Shapes = dict[str, dict[str, tuple[tuple[int, ...], torch.dtype]]]
Groups = dict[str, dict[str, Tensor]]


def resume(engine: Engine, path: Path, state: State) -> None:
    """Network, optimizer and average as they were. Raises CheckpointError where a tensor does not fit."""
    groups: Groups = {"model": live(engine.model), "ema": engine.average.tensors if engine.average is not None else {}}

    def moments(names: list[str]) -> dict[str, Tensor]:
        return _moments(engine, names, path)
    _fill(groups, path, state, alone=engine.place.strategy != "fsdp", moments=moments)


def finished(model: nn.Module, path: Path, state: State) -> nn.Module:
    """A new network filled with a checkpoint's weights: the average where there is one."""
    groups: Groups = {"model": live(model)}
    if state.averaged:
        groups["ema"] = {n: torch.zeros(t.shape) for n, t in live(model).items() if t.is_floating_point()}
    _fill(groups, path, state, alone=True)
    for name, t in groups.get("ema", {}).items():
        put(t, groups["model"][name])
    return model.eval()


def _fill(groups: Groups, path: Path, state: State, *, alone: bool,
          moments: Callable[[list[str]], dict[str, Tensor]] | None = None) -> None:
    """The groups' tensors from a checkpoint, after every name, shape and kind has been compared."""
    plain = state.layout == "plain"
    names = [*groups, *(["optimizer"] if moments else [])]
    files: Groups = {}
    if plain:
        files = {n: {todays_name(key): tensor for key, tensor in decoded(path / f"{n}.safetensors").items()}
                 for n in names if (path / f"{n}.safetensors").exists()}
        shapes: Shapes = {g: {n: (tuple(t.shape), t.dtype) for n, t in ts.items()} for g, ts in files.items()}
    else:
        shapes = sharded.listed(path)
    if moments:
        groups["optimizer"] = moments(list(shapes.get("optimizer", {})))
    for name, tensors in groups.items():
        check(shapes.get(name, {}), tensors, f"{path} ({name})")
    if not plain:
        sharded.read(path, groups, alone=alone)
        return
    for name, tensors in groups.items():
        for key, target in tensors.items():
            put(files[name][key], target)


def _moments(engine: Engine, names: list[str], path: Path) -> dict[str, Tensor]:
    """Live optimizer state for the parameters that a checkpoint has it for."""
    parameters = {n: p for n, p in engine.model.named_parameters() if p.requires_grad}
    kept = KEPT[engine.settings.optimizer]
    out: dict[str, Tensor] = {}
    for name in dict.fromkeys(n.partition(".")[2] for n in names):
        if name not in parameters:
            raise CheckpointError(f"{path} (optimizer) knows {name[:80]!r}, which this network does not train")
        p = parameters[name]
        count = torch.zeros((), dtype=torch.float32, device=p.device)
        engine.optimizer.state[p] = {kind: count if kind == "step" else torch.zeros_like(p).detach() for kind in kept}
        out |= {f"{kind}.{name}": v for kind, v in engine.optimizer.state[p].items()}
    return out
