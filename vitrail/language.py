"""Models of text by name: build, save, load. What `vitrail.models` is for images."""
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitrail.core import catalogue
from vitrail.core.errors import CheckpointError, ModelError

if TYPE_CHECKING:
    from vitrail.data.text.vocabulary import Vocabulary
    from vitrail.tasks.language.model import LanguageModel

FORMAT = "vitrail-text-1"
LENGTHS = {"translation": 64, "causal": 64, "masked": 32}       # tokens of a text, where the user does not say


def create_language_model(name: str, *, vocabulary: "Vocabulary", length: int = 0, **changes: Any) -> "LanguageModel":
    """A model of text by name, with new weights, on the CPU, in evaluation mode.

    length: the most tokens of a text; 0: the model's own, at most 64, or 32 to fill gaps. A model that has a place for
    each token is built with more of them where it needs them. changes: any other argument of the variant's constructor.

    Raises ModelError on an unknown name or argument, and on a name that is of no model of text.
    """
    from vitrail.tasks.language.model import TASKS, LanguageModel, TextIdentity

    entry = catalogue.find(name)
    task = next((t for t in entry.tasks if t in TASKS), "")
    if entry.kind != "foundation" or not task:
        raise ModelError(f"{name} is no model of text; `vitrail list --kind foundation` shows those")
    found = catalogue.variant_of(name)
    if "pad" in changes:
        raise ModelError(f"the argument 'pad' of {name} follows from the vocabulary: leave it out")
    own, asked = found.settings().get("length"), {**changes, "vocabulary": len(vocabulary)}
    if own is not None and length > own:
        asked["length"] = length
    length = length or min(own or LENGTHS[task], LENGTHS[task])
    try:
        network = found(**asked)
    except (TypeError, ValueError, RuntimeError, ZeroDivisionError) as e:
        raise ModelError(f"{name} cannot be built with {changes}: {e}") from e
    config = TextIdentity(model=name, task=task, vocabulary=vocabulary, length=length, changes=changes)
    return LanguageModel(network, config).eval()


def save_language_model(model: "LanguageModel", folder: str | Path, *, overwrite: bool = False) -> Path:
    """config.json and model.safetensors in a folder, written aside and renamed. Loads with `load_language_model`."""
    from vitrail.core.files import atomic_folder, sha256
    from vitrail.core.tensors import write_tensors

    with atomic_folder(Path(folder), overwrite=overwrite) as new:
        write_tensors(new / "model.safetensors", model.state_dict())
        config = {"format": FORMAT, **model.config.to_json(), "sha256": sha256(new / "model.safetensors")}
        (new / "config.json").write_text(json.dumps(config, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return Path(folder)


def load_language_model(folder: str | Path) -> "LanguageModel":
    """The model of a folder that `save_language_model` wrote, or of a finished run, in evaluation mode.

    Raises CheckpointError on a damaged one, and on a model of images.
    """
    from vitrail.core.files import sha256
    from vitrail.core.tensors import read_tensors
    from vitrail.tasks.language.model import TextIdentity

    config, tensors = (saved(folder) / name for name in ("config.json", "model.safetensors"))
    for file in (config, tensors):
        if not file.is_file() and (Path(folder) / "run.json").is_file():
            raise CheckpointError(f"{folder} is a run that has not finished: the command that started it goes on with "
                                  "it, and its end writes the model")
        if not file.is_file():
            raise CheckpointError(f"{folder} holds no {file.name}: it is neither a model that vitrail saved "
                                  "nor a finished run")
    try:
        data = json.loads(config.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as e:
        raise CheckpointError(f"{config} is not readable as JSON: {e}") from None
    if isinstance(data, dict) and data.get("format") == "vitrail-1":
        raise CheckpointError(f"{folder} holds {data.get('model')}, a model of images, and this is done with a model "
                              "of text")
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise CheckpointError(f"{config} does not describe a model of text (format {FORMAT!r})")
    config = TextIdentity.from_json(data)
    if sha256(tensors) != data.get("sha256"):
        raise CheckpointError(f"{tensors} is not the file that {config.name} describes: it is damaged or was replaced")
    model = create_language_model(config.model, vocabulary=config.vocabulary, length=config.length,
                                  **config.arguments)
    try:
        model.load_state_dict(read_tensors(tensors))
    except RuntimeError as e:
        raise CheckpointError(f"{tensors} does not fit {config.model}: {e}") from None
    return model


def is_saved_text(folder: str | Path) -> bool:
    """Whether a folder, of a run or of a saved model, says that it holds a model of text."""
    try:
        data = json.loads((saved(folder) / "config.json").read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError):
        return False
    return isinstance(data, dict) and data.get("format") == FORMAT


def saved(folder: str | Path) -> Path:
    """Where a model's files are: in the folder itself, or, of a run, in its folder `model`."""
    inside = Path(folder) / "model"
    return inside if not (Path(folder) / "config.json").exists() and (inside / "config.json").exists() else Path(folder)
