"""The tensors of a model: read from files and addresses in the layouts of others, and written in them."""
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitrail.core import catalogue
from vitrail.core.config import FIRST_FORMATS
from vitrail.core.errors import CheckpointError, did_you_mean
from vitrail.core.keys import Keys

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class Loaded:
    """What loading did, tensor by tensor, in the model's names."""

    matched: tuple[str, ...]
    missing: tuple[str, ...] = ()           # the model's, and left as they were
    unexpected: tuple[str, ...] = ()        # the file's, and left out
    resized: tuple[str, ...] = ()           # tables of positions fitted to another grid
    fresh: tuple[str, ...] = field(default=())      # the head's, left new because that was asked for

    def __str__(self) -> str:
        parts = [f"{len(self.matched)} tensors matched"]
        for name in ("missing", "unexpected", "resized", "fresh"):
            if found := getattr(self, name):
                parts.append(f"{len(found)} {name} ({', '.join(found[:4])}{', ...' if len(found) > 4 else ''})")
        return "; ".join(parts)


# tensors whose modules have other names since the first format
RENAMED = {"patch_embed": "tokenize"}        # the names of modules: today, and in the first format


def todays_name(name: str) -> str:
    """What a tensor of the first format is called today."""
    names = {old: new for new, old in RENAMED.items()}
    return ".".join(names.get(part, part) for part in name.split("."))


def former_name(name: str) -> str:
    """What a tensor of today was called in the first format."""
    return ".".join(RENAMED.get(part, part) for part in name.split("."))


def renamed(state: "Mapping[str, Tensor]", written: object) -> "dict[str, Tensor]":
    """The tensors of a saved model under today's names, whichever format they were written in."""
    if written not in FIRST_FORMATS:
        return dict(state)
    return {todays_name(name): tensor for name, tensor in state.items()}


def keys_of(model: Any, layout: str) -> Keys | None:
    """The key table of a layout for this very model; None for our own. Raises CheckpointError on an unknown one."""
    if layout == "vitrail":
        return None
    if model.config.mixer:
        raise CheckpointError(f"{model.config.model} with {model.config.mixer} as its mixer has no layout but our "
                              f"own: leave out keys={layout!r}")
    known = catalogue.module_of(model.config.model).KEYS
    if layout not in known:
        raise CheckpointError(f"{model.config.model} has no layout "
                              f"{layout!r}.{did_you_mean(layout, [*known, 'vitrail'])} "
                              f"It reads: vitrail, {', '.join(known)}.")
    settings = {**catalogue.variant_of(model.config.model).settings(), **model.config.arguments}
    table = known[layout](settings)
    assert isinstance(table, Keys)
    return table


def load_weights(model: Any, source: "str | Path | Mapping[str, Tensor]", *, keys: str = "vitrail",
                 inside: str = "", strict: bool = True, resize: bool = False, head: str = "load",
                 adapt_channels: bool = False, sha256: str = "", allow_nonfinite: bool = False) -> Loaded:
    """Copies the tensors of a file, an address or a mapping into the model; says what became of each.

    keys:   the layout they are in. inside: the entry of the file that holds them.
    strict: every tensor of the model must be there and every one of the file must be wanted. Without it at
            least nine in ten of the model's numbers must still be found.
    resize: fit tables of positions of another size. adapt_channels: fold or repeat the weights that read the image, for
            a model of another `in_chans` (`nn.stem.fold_input_channels`).
    head:   "load", or "fresh" to leave the head as it is.

    Raises CheckpointError; the model is then as it was.
    """
    import torch

    if head not in ("load", "fresh"):
        raise CheckpointError(f"head is 'load' or 'fresh', not {head!r}")
    where = "the tensors given" if isinstance(source, Mapping) else str(source)
    state = source if isinstance(source, Mapping) else _read(str(source), sha256, inside, allow_nonfinite)
    table = keys_of(model, keys)
    state = dict(state) if table is None else _prefixed(model, table.translate(state))
    if adapt_channels:
        from vitrail.nn.stem import adapt_input_channels
        state = adapt_input_channels(model, state)
    own = model.state_dict()
    fresh = tuple(k for k in own if head == "fresh" and k.startswith("head."))
    unexpected = tuple(k for k in state if k not in own)
    missing = tuple(k for k in own if k not in state and k not in fresh)
    chosen, resized = {}, []
    for name in own:
        if name in missing or name in fresh:
            continue
        value = state[name]
        if value.shape != own[name].shape:
            value = _resized(model, name, value, resize, where)
            resized.append(name)
        chosen[name] = value
    found = sum(own[k].numel() for k in chosen) / max(1, sum(own[k].numel() for k in own if k not in fresh))
    if (strict and (missing or unexpected)) or found < 0.9:
        raise CheckpointError(
            f"{where} does not fit {model.config.model}: {len(missing)} tensors of the model are missing "
            f"({', '.join(missing[:5])}{', ...' if len(missing) > 5 else ''}), {len(unexpected)} of the file are not "
            f"wanted ({', '.join(unexpected[:5])}{', ...' if len(unexpected) > 5 else ''}). Another size of the model, "
            f"or another layout (keys=)?")
    with torch.no_grad():
        for name, value in chosen.items():
            own[name].copy_(value)
    return Loaded(tuple(chosen), missing, unexpected, tuple(resized), fresh)


def _read(source: str, sha256: str, inside: str, allow_nonfinite: bool) -> "dict[str, Tensor]":
    from vitrail.core.hub import fetch
    from vitrail.core.tensors import read_tensors
    return read_tensors(fetch(source, sha256=sha256), inside=inside, allow_nonfinite=allow_nonfinite)


def _resized(model: "nn.Module", name: str, value: "Tensor", resize: bool, where: str) -> "Tensor":
    """The tensor fitted by the module that owns it, where that was asked for and can be done."""
    owner = model.get_submodule(name.rpartition(".")[0])
    wanted = tuple(model.state_dict()[name].shape)
    fit = getattr(owner, "fit", None)
    if fit is None:
        hint = " Other classes? head='fresh' (--new-head) leaves the head new." if name.startswith("head.") else ""
        if value.ndim == len(wanted) > 2 and value.shape[:1] + value.shape[2:] == wanted[:1] + wanted[2:]:
            hint = " Images of another number of channels? adapt_channels=True folds or repeats the first layer."
        raise CheckpointError(f"{where}: {name} has shape {tuple(value.shape)}, the model's is {wanted}.{hint}")
    if not resize:
        raise CheckpointError(f"{where}: the positions {name} have shape {tuple(value.shape)}, the model's {wanted}: "
                              f"they are of another image size. resize=True fits them.")
    return fit(value)


def save_weights(model: "nn.Module", path: str | Path, *, keys: str = "vitrail", overwrite: bool = False) -> Path:
    """The tensors alone, as safetensors, in a layout's own names. Raises VitrailError where a file stands there."""
    from vitrail.core.tensors import write_tensors

    table = keys_of(model, keys)
    state = model.state_dict()
    write_tensors(Path(path), state if table is None else table.restore(_bare(model, state)), overwrite=overwrite)
    return Path(path)


def _prefixed(model: "nn.Module", state: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
    """Names of a key table as those of the model, which may hold the network under a name of its own."""
    prefix = getattr(model, "network_prefix", "")
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


def _bare(model: "nn.Module", state: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
    prefix = getattr(model, "network_prefix", "")
    return {name.removeprefix(prefix): tensor for name, tensor in state.items()}
