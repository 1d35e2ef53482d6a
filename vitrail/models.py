"""Models by name: build, load, save, list."""
import importlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitrail.core import catalogue
from vitrail.core.card import Figures, Paper, Variant, Weights
from vitrail.core.catalogue import Entry
from vitrail.core.errors import CheckpointError, ModelError, did_you_mean
from vitrail.core.config import ModelConfig, Preprocessing
from vitrail.weights import load_weights

if TYPE_CHECKING:
    from torch import nn

    from vitrail.core.mechanism import Mechanism
    from vitrail.tasks.classification.model import Classifier


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

    kind: "backbone", of which create_model makes classifiers; "foundation", "attention", "position"; "" for all.
    """
    return [entry.name for entry in catalogue.search(pattern, task=task, kind=kind)]


def card(name: str) -> Card:
    """Paper, figures, arguments, weights and ancestry. Raises ModelError on a name that the catalogue lacks."""
    module = catalogue.module_of(name)
    papers = tuple(importlib.import_module(f"vitrail.{m}").PAPER for m in module.PAPER.builds_on)
    return Card(catalogue.find(name), module.PAPER, catalogue.entry_of(name), papers)


def create_model(name: str, *, classes: int | None = None, labels: Sequence[str] = (),
                 weights: str | Path | None = None, keys: str = "", inside: str = "", resize: bool = False,
                 head: str = "", mixer: "str | type[nn.Module] | Mechanism" = "", **changes: Any) -> "Classifier":
    """A classifier by name, on the CPU, in evaluation mode.

    classes: how many; or `labels`, their names. 1,000 where neither is said.
    weights: a release's name (`card(name).variant.weights`), "hf://owner/repo/file", "https://...", or a path.
             A release whose classes are not the ones asked for leaves the head new.
    keys:    the layout of a path or address: "vitrail", "timm", "official"; inside: the entry of the file that holds
             the tensors, such as "model". A named release knows its own.
    resize:  fit tables of positions to this model's size. head: "load" or "fresh", as for load_weights.
    mixer:   a mechanism that replaces the token mixer of a plain backbone in every block: its name (`vitrail list
             --kind attention`), its class, or a Mechanism. The class token goes (see vitrail.mixers).
    changes: any argument of the variant's constructor.

    Raises ModelError on an unknown name or argument, CheckpointError on weights that do not fit.
    """
    from vitrail.tasks.classification.model import Classifier

    catalogue.find(name, "backbone")
    found = catalogue.variant_of(name)
    if mixer and weights is not None and str(weights) in {w.name for w in found.weights}:
        raise ModelError(f"the release {weights!r} is of {name} as published, which has no other mixer: leave out one "
                         "of the two")
    if classes is None:
        classes = len(labels) or _figures(found).classes
    if classes < 1 or (labels and len(labels) != classes):
        raise ModelError(f"{classes} classes and {len(labels)} labels do not go together")
    release = next((w for w in found.weights if w.name == weights), None) if weights is not None else None
    try:
        backbone, mixer = _mixed(name, found(**changes), mixer)
        readout = backbone.make_head(classes)
    except (TypeError, ValueError, RuntimeError, ZeroDivisionError) as e:
        raise ModelError(f"{name} cannot be built with {changes}: {e}") from e
    config = ModelConfig(model=name, changes=changes, labels=tuple(labels) or tuple(str(i) for i in range(classes)),
                        preprocessing=_preprocessing(found, changes, release), mixer=mixer)
    model = Classifier(backbone, readout, config)
    if weights is not None:
        if release is not None:
            weights, keys = release.source, release.keys
        elif "/" not in str(weights) and not Path(weights).exists():
            names = [w.name for w in found.weights]
            raise ModelError(f"{name} has no release {str(weights)!r}, and there is no such file."
                             f"{did_you_mean(str(weights), names)} Releases: {', '.join(names) or 'none'}.")
        load_weights(model, weights, keys=keys or "vitrail", inside=release.inside if release else inside,
                     resize=resize, sha256=release.sha256 if release else "",
                     head=head or ("fresh" if release and release.classes != classes else "load"))
    return model.eval()


def _mixed(name: str, backbone: Any, mixer: "str | type[nn.Module] | Mechanism") -> tuple[Any, str]:
    """The backbone with the mixer that was asked for, and that mixer's name; both as they are where none was."""
    if isinstance(mixer, str) and not mixer:
        return backbone, mixer
    from vitrail.mixers import Mixed, find_mixer
    chosen = find_mixer(mixer)
    return Mixed(name, backbone, chosen), chosen.name


def _figures(found: Variant[Any]) -> Figures:
    assert isinstance(found.figures, Figures)               # a backbone's are those of images
    return found.figures


def _preprocessing(found: Variant[Any], changes: Mapping[str, Any], release: Weights | None) -> Preprocessing:
    """The release's preprocessing, or the default one, at the size this model is built for."""
    asked = changes.get("image", release.image if release else found.settings().get("image", _figures(found).image))
    size = (asked, asked) if isinstance(asked, int) else tuple(asked)
    if release is None:
        return Preprocessing(size=size)
    return Preprocessing(size=size, mean=release.mean, std=release.std, crop=release.crop,
                         interpolation=release.interpolation)


def save_model(model: "Classifier", folder: str | Path, *, overwrite: bool = False) -> Path:
    """config.json and model.safetensors in a folder, written aside and renamed. Loads with `load_model`."""
    from vitrail.core.files import atomic_folder, sha256
    from vitrail.core.tensors import write_tensors

    with atomic_folder(Path(folder), overwrite=overwrite) as new:
        write_tensors(new / "model.safetensors", model.state_dict())
        config = {"format": "vitrail-1", **model.config.to_json(), "sha256": sha256(new / "model.safetensors")}
        (new / "config.json").write_text(json.dumps(config, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return Path(folder)


def load_model(folder: str | Path, *, mixer: "type[nn.Module] | Mechanism | None" = None) -> "Classifier":
    """The model of a folder that `save_model` wrote, or of a finished run, in evaluation mode.

    mixer: the class or Mechanism that its blocks mix tokens by, where that is your own: a file names it, and no file
    makes vitrail import code. Raises CheckpointError on a damaged one, and where a mixer is missing.
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
    if isinstance(data, dict) and data.get("format") == "vitrail-text-1":
        raise CheckpointError(f"{folder} holds {data.get('model')}, a model of text, and this is done with a model of "
                              "images; `vitrail generate` asks it, vitrail.language.load_language_model loads it")
    if not isinstance(data, dict) or data.get("format") != "vitrail-1":
        raise CheckpointError(f"{config} does not describe a vitrail model (format 'vitrail-1')")
    config = ModelConfig.from_json(data)
    if sha256(tensors) != data.get("sha256"):
        raise CheckpointError(f"{tensors} is not the file that {config.name} describes: it is damaged or was replaced")
    if "." in config.mixer and mixer is None:
        raise CheckpointError(f"{folder} was built with {config.mixer}, which is none of vitrail's mechanisms: "
                              "import that class and hand it to load_model(..., mixer=)")
    model = create_model(config.model, labels=config.spec.labels, mixer=mixer or config.mixer, **config.arguments)
    if model.config.mixer != config.mixer:
        raise CheckpointError(f"{folder} was built with the mixer {config.mixer or 'of its backbone'}, and "
                              f"{model.config.mixer} was handed to load_model")
    model.config = replace(config)
    load_weights(model, tensors)
    return model
