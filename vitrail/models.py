"""Models by name: build, load, save, list."""
import importlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitrail.core import catalogue
from vitrail.core.card import Paper, Variant, Weights
from vitrail.core.catalogue import Entry
from vitrail.core.errors import CheckpointError, ModelError, nearest
from vitrail.core.identity import Identity, Preprocessing
from vitrail.core.keys import Keys

if TYPE_CHECKING:
    from torch import Tensor, nn

    from vitrail.tasks.classification.model import Classifier


@dataclass(frozen=True)
class Card:
    """What is known of a system before it is built."""

    entry: Entry
    paper: Paper
    variant: Variant[Any]
    builds_on: tuple["Paper", ...] = ()


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


def list_models(pattern: str = "*", *, task: str = "", kind: str = "") -> list[str]:
    """The names that match a shell pattern such as "swin*"; of one task or kind, where given."""
    return [entry.name for entry in catalogue.search(pattern, task=task, kind=kind)]


def card(name: str) -> Card:
    """Paper, figures, arguments, weights and ancestry of a system. Raises ModelError on an unknown name."""
    module = catalogue.module_of(name)
    papers = tuple(importlib.import_module(f"vitrail.{m}").PAPER for m in module.PAPER.builds_on)
    return Card(catalogue.find(name), module.PAPER, catalogue.variant_of(name), papers)


def create_model(name: str, *, classes: int | None = None, labels: Sequence[str] = (),
                 weights: str | Path | None = None, keys: str = "", inside: str = "", resize: bool = False,
                 head: str = "", **changes: Any) -> "Classifier":
    """A classifier by name, on the CPU, in evaluation mode.

    classes: how many; or `labels`, their names. 1,000 where neither is said.
    weights: a release's name (`card(name).variant.weights`), "hf://owner/repo/file", "https://...", or a path.
             A release whose classes are not the ones asked for leaves the head new.
    keys:    the layout of a path or address: "vitrail", "timm", "official"; inside: the entry of the file that holds
             the tensors, such as "model". A named release knows its own.
    resize:  fit tables of positions to this model's size. head: "load" or "fresh", as for load_weights.
    changes: any argument of the variant's constructor.

    Raises ModelError on an unknown name or argument, CheckpointError on weights that do not fit.
    """
    from vitrail.tasks.classification.model import Classifier

    found = catalogue.variant_of(name)
    if classes is None:
        classes = len(labels) or found.figures.classes
    if classes < 1 or (labels and len(labels) != classes):
        raise ModelError(f"{classes} classes and {len(labels)} labels do not go together")
    release = next((w for w in found.weights if w.name == weights), None) if weights is not None else None
    try:
        backbone = found(**changes)
        readout = backbone.readout(classes)
    except (TypeError, ValueError, RuntimeError, ZeroDivisionError) as e:
        raise ModelError(f"{name} cannot be built with {changes}: {e}") from e
    identity = Identity(model=name, changes=changes, labels=tuple(labels) or tuple(str(i) for i in range(classes)),
                        preprocessing=_eyes(found, changes, release))
    model = Classifier(backbone, readout, identity)
    if weights is not None:
        if release is not None:
            weights, keys = release.source, release.keys
        elif "/" not in str(weights) and not Path(weights).exists():
            names = [w.name for w in found.weights]
            raise ModelError(f"{name} has no release {str(weights)!r}, and there is no such file."
                             f"{nearest(str(weights), names)} Releases: {', '.join(names) or 'none'}.")
        load_weights(model, weights, keys=keys or "vitrail", inside=release.inside if release else inside,
                     resize=resize, sha256=release.sha256 if release else "",
                     head=head or ("fresh" if release and release.classes != classes else "load"))
    return model.eval()


def _eyes(found: Variant[Any], changes: Mapping[str, Any], release: Weights | None) -> Preprocessing:
    """The release's preprocessing, or the default one, at the size this model is built for."""
    asked = changes.get("image", release.image if release else found.settings().get("image", found.figures.image))
    size = (asked, asked) if isinstance(asked, int) else tuple(asked)
    if release is None:
        return Preprocessing(size=size)
    return Preprocessing(size=size, mean=release.mean, std=release.std, crop=release.crop,
                         interpolation=release.interpolation)


def keys_of(model: "Classifier", layout: str) -> Keys | None:
    """The key table of a layout for this very model; None for our own. Raises CheckpointError on an unknown one."""
    if layout == "vitrail":
        return None
    known = catalogue.module_of(model.identity.model).KEYS
    if layout not in known:
        raise CheckpointError(f"{model.identity.model} has no layout {layout!r}.{nearest(layout, [*known, 'vitrail'])} "
                              f"It reads: vitrail, {', '.join(known)}.")
    settings = {**catalogue.variant_of(model.identity.model).settings(), **model.identity.changes}
    table = known[layout](settings)
    assert isinstance(table, Keys)
    return table


def load_weights(model: "Classifier", source: "str | Path | Mapping[str, Tensor]", *, keys: str = "vitrail",
                 inside: str = "", strict: bool = True, resize: bool = False, head: str = "load",
                 sha256: str = "", allow_nonfinite: bool = False) -> Loaded:
    """Copies the tensors of a file, an address or a mapping into the model; says what became of each.

    keys:   the layout they are in. inside: the entry of the file that holds them.
    strict: every tensor of the model must be there and every one of the file must be wanted. Without it at
            least nine in ten of the model's numbers must still be found.
    resize: fit tables of positions of another size. head: "load", or "fresh" to leave the head as it is.

    Raises CheckpointError; the model is then as it was.
    """
    import torch

    if head not in ("load", "fresh"):
        raise CheckpointError(f"head is 'load' or 'fresh', not {head!r}")
    where = "the tensors given" if isinstance(source, Mapping) else str(source)
    state = source if isinstance(source, Mapping) else _read(str(source), sha256, inside, allow_nonfinite)
    table = keys_of(model, keys)
    state = dict(state) if table is None else table.translate(state)
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
            f"{where} does not fit {model.identity.model}: {len(missing)} tensors of the model are missing "
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
        raise CheckpointError(f"{where}: {name} has shape {tuple(value.shape)}, the model's is {wanted}.{hint}")
    if not resize:
        raise CheckpointError(f"{where}: the positions {name} have shape {tuple(value.shape)}, the model's {wanted}: "
                              f"they are of another image size. resize=True fits them.")
    return fit(value)


def save_weights(model: "Classifier", path: str | Path, *, keys: str = "vitrail", overwrite: bool = False) -> Path:
    """The tensors alone, as safetensors, in a layout's own names. Raises VitrailError where a file stands there."""
    from vitrail.core.tensors import write_tensors

    table = keys_of(model, keys)
    state = model.state_dict()
    write_tensors(Path(path), state if table is None else table.restore(state), overwrite=overwrite)
    return Path(path)


def save_model(model: "Classifier", folder: str | Path, *, overwrite: bool = False) -> Path:
    """config.json and model.safetensors in a folder, written aside and renamed. Loads with `load_model`."""
    from vitrail.core.files import atomic_folder, sha256
    from vitrail.core.tensors import write_tensors

    with atomic_folder(Path(folder), overwrite=overwrite) as new:
        write_tensors(new / "model.safetensors", model.state_dict())
        config = {"format": "vitrail-1", **model.identity.to_json(), "sha256": sha256(new / "model.safetensors")}
        (new / "config.json").write_text(json.dumps(config, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return Path(folder)


def load_model(folder: str | Path) -> "Classifier":
    """The model of a folder that `save_model` wrote, or of a finished run, in evaluation mode.

    Raises CheckpointError on a damaged one.
    """
    from vitrail.core.files import sha256

    if not (Path(folder) / "config.json").exists() and (Path(folder) / "model" / "config.json").exists():
        folder = Path(folder) / "model"
    config, tensors = Path(folder) / "config.json", Path(folder) / "model.safetensors"
    for file in (config, tensors):
        if not file.is_file() and (Path(folder) / "run.json").is_file():
            raise CheckpointError(f"{folder} is a run that has not finished: the command that started it goes on with "
                                  "it, and its end writes the model")
        if not file.is_file():
            raise CheckpointError(f"{folder} holds no {file.name}: it is neither a model that vitrail saved "
                                  f"nor a finished run")
    try:
        data = json.loads(config.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as e:
        raise CheckpointError(f"{config} is not readable as JSON: {e}") from None
    if not isinstance(data, dict) or data.get("format") != "vitrail-1":
        raise CheckpointError(f"{config} does not describe a vitrail model (format 'vitrail-1')")
    identity = Identity.from_json(data)
    if sha256(tensors) != data.get("sha256"):
        raise CheckpointError(f"{tensors} is not the file that {config.name} describes: it is damaged or was replaced")
    model = create_model(identity.model, labels=identity.labels, **identity.changes)
    model.identity = replace(identity)
    load_weights(model, tensors)
    return model
