"""Models by name, for all tasks: build, load, save, list."""
import importlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitrail.core import catalogue
from vitrail.core.card import Paper, Variant, Weights
from vitrail.core.catalogue import Entry
from vitrail.core.config import FORMAT, ModelConfig
from vitrail.core.errors import CheckpointError, ModelError, did_you_mean
from vitrail.core.plugins import imported
from vitrail.core.task import Task, find_task, task_of
from vitrail.weights import load_weights, renamed

if TYPE_CHECKING:
    from torch import nn

    from vitrail.core.mechanism import Mechanism

CONFIG = "config.json"
TENSORS = "model.safetensors"


@dataclass(frozen=True)
class Card:
    """What is known of a system before it is built; `variant` is the checked constructor, or what a mechanism or a
    position code declares of itself."""

    entry: Entry
    paper: Paper
    variant: Any
    builds_on: tuple["Paper", ...] = ()


def list_models(pattern: str = "*", *, task: str = "", kind: str = "backbone") -> list[str]:
    """The names that match a shell pattern such as "swin*"; of one task, where given.

    kind: "backbone", of which create_model makes models for images; "foundation", "attention", "position"; "" for all.

    >>> list_models("vit_s*")[0]
    'vit_s32'
    """
    return [entry.name for entry in catalogue.search(pattern, task=task, kind=kind)]


def card(name: str) -> Card:
    """Paper, figures, arguments, weights and ancestry. Raises ModelError on a name that the catalogue lacks."""
    module = catalogue.module_of(name)
    papers = tuple(importlib.import_module(f"vitrail.{m}").PAPER for m in module.PAPER.builds_on)
    return Card(catalogue.find(name), module.PAPER, catalogue.entry_of(name), papers)


def create_model(name: str, *, task: str = "", weights: str | Path | None = None, keys: str = "", inside: str = "",
                 resize: bool = False, adapt_channels: bool = False, head: str = "",
                 mixer: "str | type[nn.Module] | Mechanism" = "", **options: Any) -> Any:
    """A model by name, on the CPU, in evaluation mode; `model.config` says what it is.

    task:    what it is to do; the first of the tasks that the catalogue names for it, unless given.
    weights: a release's name (`card(name).variant.weights`), "hf://owner/repo/file", "https://...", or a path.
             A release whose classes are not the ones asked for leaves the head new.
    keys:    the layout of a path or address: "vitrail", "timm", "official"; inside: the entry of the file that holds
             the tensors, such as "model". A named release knows its own.
    resize:  fit tables of positions to this model's size. adapt_channels: fold or repeat the first layer's weights for
             in_chans other than theirs. head: "load" or "fresh", as for load_weights.
    mixer:   a mechanism that replaces the token mixer of a plain backbone in every block: its name (`vitrail list
             --kind attention`), its class, a Mechanism, or where a class of your own is ("mine.py:MyMixer"). The class
             token goes (see vitrail.mixers).
    options: what the task asks (classes=10; a vocabulary and a length), and any argument of the
             variant's constructor.

    Raises ModelError on an unknown name or argument, CheckpointError on weights that do not fit.

    >>> create_model("vit_ti16", classes=10, depth=2).config.arguments
    {'depth': 2}
    """
    variant = catalogue.variant_of(name)
    chosen = find_task(task or catalogue.find(name).tasks[0])
    release = _release(name, variant, weights, mixer)
    arguments = {key: value for key, value in options.items() if key not in chosen.spec_options}
    asked = {key: value for key, value in options.items() if key in chosen.spec_options}
    spec = chosen.make_spec(name, variant, arguments, release, **asked)
    config = ModelConfig(model=name, task=chosen.name, arguments=arguments, spec=spec)
    model = build(config, mixer=mixer)
    if weights is not None:
        source = release.source if release else weights
        load_weights(model, source, keys=(release.keys if release else keys) or "vitrail",
                     inside=release.inside if release else inside, resize=resize, adapt_channels=adapt_channels,
                     sha256=release.sha256 if release else "", head=head or _head(chosen, release, config))
    return model


def build(config: ModelConfig, *, mixer: "str | type[nn.Module] | Mechanism" = "") -> Any:
    """The model that a config describes, with new weights, in evaluation mode.

    mixer: in the place of the config's name for it, where it is a class of your own. Raises ModelError.
    """
    variant = catalogue.variant_of(config.model)
    follows = config.spec.constructor_arguments(variant, config.arguments)
    try:
        network = variant(**{**config.arguments, **follows})
        if mixer or config.mixer:
            from vitrail.mixers import Mixed, find_mixer
            found = find_mixer(mixer or config.mixer)
            network = Mixed(config.model, network, found)
            config = replace(config, mixer=found.name)
        model = task_of(config).build(config, network)
    except (TypeError, ValueError, RuntimeError, ZeroDivisionError) as e:
        raise ModelError(f"{config.model} cannot be built with {dict(config.arguments)}: {e}") from e
    if config.edits:
        from vitrail.compress.edits import apply_edits
        apply_edits(model, config.edits)
    return model.eval()


def _release(name: str, variant: Variant[Any], weights: str | Path | None, mixer: Any) -> Weights | None:
    """The release that `weights` names; None for a file or an address. Raises ModelError for what is neither."""
    if weights is None:
        return None
    names = [release.name for release in variant.weights]
    if str(weights) in names:
        if mixer:
            raise ModelError(f"the release {weights!r} is of {name} as published, which has no other mixer: leave out "
                             "one of the two")
        return variant.weights[names.index(str(weights))]
    if "/" not in str(weights) and not Path(weights).exists():
        raise ModelError(f"{name} has no release {str(weights)!r}, and there is no such file."
                         f"{did_you_mean(str(weights), names)} Releases: {', '.join(names) or 'none'}.")
    return None


def _head(task: Task, release: Weights | None, config: ModelConfig) -> str:
    """What becomes of the head where the user does not say: a release of other classes leaves it new."""
    fits = release is None or getattr(config.spec, "classes", release.classes) == release.classes
    return "load" if fits else "fresh"


def save_model(model: "nn.Module", folder: str | Path, *, overwrite: bool = False) -> Path:
    """config.json and model.safetensors in a folder, written aside and renamed. Loads with `load_model`.

    Raises ModelError for a module without a config, and for one whose tensors are not those of the model that its
    config describes: what `load_model` could not read is not written.
    """
    from vitrail.core.files import atomic_folder, sha256
    from vitrail.core.tensors import write_tensors

    config = config_of(model)
    _check_replayable(model, config)
    with atomic_folder(Path(folder), overwrite=overwrite) as new:
        write_tensors(new / TENSORS, model.state_dict())
        data = {"format": FORMAT, **config.to_json(), "sha256": sha256(new / TENSORS)}
        (new / CONFIG).write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return Path(folder)


def config_of(model: Any) -> ModelConfig:
    """The config of a model of vitrail's. Raises ModelError for any other module."""
    config = getattr(model, "config", None)
    if not isinstance(config, ModelConfig):
        raise ModelError(f"this is done with a model of vitrail (create_model, load_model), not with a "
                         f"{type(model).__name__}")
    return config


def _check_replayable(model: "nn.Module", config: ModelConfig) -> None:
    """Raises ModelError where building from the config would give other tensors than the model has."""
    import torch

    own_mixer = "." in config.mixer and imported(config.mixer) is None
    if own_mixer:
        return                              # its class is handed to load_model, which compares the tensors then
    with torch.device("meta"):
        replayed = build(ModelConfig.from_json({"format": FORMAT, **json.loads(json.dumps(config.to_json()))}),
                         mixer=imported(config.mixer) or "")
    ours = {name: tensor.shape for name, tensor in model.state_dict().items()}
    theirs = {name: tensor.shape for name, tensor in replayed.state_dict().items()}
    if ours != theirs:
        differing = sorted(name for name in {*ours, *theirs} if ours.get(name) != theirs.get(name))
        raise ModelError(f"{config.model} was changed since it was built, and could not be loaded again: "
                         f"{', '.join(differing[:4])}{', ...' if len(differing) > 4 else ''} would not fit. Note what "
                         "changes its structure as an edit (vitrail.compress.edits), or save its tensors alone "
                         "(save_weights)")


def saved(folder: str | Path) -> Path:
    """Where a model's files are: in the folder itself, or, of a run, in its folder `model`."""
    inside = Path(folder) / "model"
    return inside if not (Path(folder) / CONFIG).exists() and (inside / CONFIG).exists() else Path(folder)


def load_config(folder: str | Path) -> ModelConfig:
    """What a saved model, or that of a finished run, says it is. No tensors are read, and torch is not imported.

    Raises CheckpointError where there is none, or it cannot be read; ModelError for a task that is not known.
    """
    return ModelConfig.from_json(_read(folder))


def _read(folder: str | Path) -> Mapping[str, Any]:
    for name in (CONFIG, TENSORS):
        if not (saved(folder) / name).is_file() and (Path(folder) / "run.json").is_file():
            raise CheckpointError(f"{folder} is a run that has not finished: the command that started it goes on with "
                                  "it, and its end writes the model")
        if not (saved(folder) / name).is_file():
            raise CheckpointError(f"{folder} holds no {name}: it is neither a model that vitrail saved nor a finished "
                                  "run")
    config = saved(folder) / CONFIG
    try:
        data = json.loads(config.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as e:
        raise CheckpointError(f"{config} is not readable as JSON: {e}") from None
    if not isinstance(data, dict) or "format" not in data:
        raise CheckpointError(f"{config} does not describe a vitrail model (format {FORMAT!r})")
    return data


def load_model(folder: str | Path, *, mixer: "type[nn.Module] | Mechanism | None" = None) -> Any:
    """The model of a folder that `save_model` wrote, or of a finished run, in evaluation mode.

    mixer: the class or Mechanism that its blocks mix tokens by, where that is your own: a file names it, and no file
    makes vitrail import code. Raises CheckpointError on a damaged one, and where a mixer is missing.
    """
    from vitrail.core.files import sha256
    from vitrail.core.tensors import read_tensors

    data = _read(folder)
    config = ModelConfig.from_json(data)
    tensors = saved(folder) / TENSORS
    if sha256(tensors) != data.get("sha256"):
        raise CheckpointError(f"{tensors} is not the file that {CONFIG} describes: it is damaged or was replaced")
    given = mixer or (imported(config.mixer) if "." in config.mixer else None)
    if "." in config.mixer and given is None:
        raise CheckpointError(f"{folder} was built with {config.mixer}, which is none of vitrail's mechanisms: import "
                              "that class and hand it to load_model(..., mixer=), or name its file with --plugin")
    model = build(config, mixer=given or "")
    if model.config.mixer != config.mixer:
        raise CheckpointError(f"{folder} was built with the mixer {config.mixer or 'of its backbone'}, and "
                              f"{model.config.mixer} was handed to load_model")
    load_weights(model, renamed(read_tensors(tensors), data.get("format")))
    return model
