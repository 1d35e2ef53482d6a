"""A model as the command line names it, a place to run it, and files that may not be there yet. torch comes late."""
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitrail.cli.options import FromModel, OnDevice, Precision, Threads
from vitrail.core import catalogue
from vitrail.core.errors import DataError, ModelError, SettingsError, VitrailError, did_you_mean
from vitrail.core.task import Task, task_for, task_of

if TYPE_CHECKING:
    import torch


def check_model(text: str, weights: str) -> None:
    """Raises ModelError for what is neither a folder nor a name with weights. Imports no torch."""
    path = _path(text)
    if text and path.is_dir():
        if weights:
            raise SettingsError(f"{text} is a folder, which holds its own weights: leave out --weights")
        return
    if text and path.exists():
        raise ModelError(f"{text} is a file, and a model is the folder of a run or of a saved model, or a name of the "
                         f"catalogue with --weights {text}")
    if text not in catalogue.entries():
        hint = did_you_mean(path.name, [*beside(path), *catalogue.entries()], least=0.7)
        raise ModelError(f"there is no folder {text!r}, and no model of that name.{hint} "
                         "`vitrail list` shows the names.")
    if not weights:
        known = catalogue.find(text).weights
        raise ModelError(f"{text} is a name, and needs weights: --weights {known[0] if known else 'FILE'}"
                         f"{' (released: ' + ', '.join(known) + ')' if known else ''}. A folder brings its own.")


def _path(text: str) -> Path:
    """Raises ModelError for what no file system would take as a name."""
    try:
        path = Path(text).expanduser()
        path.exists()
    except (OSError, ValueError, RuntimeError) as e:        # too long, a null byte, a home that is not known
        raise ModelError(f"{text[:80]!r} is neither a folder nor a model's name: {e}") from None
    return path


def check_inputs(a: FromModel, text: str) -> Any:
    """Real inputs as the task of the model reads them: a path, once it is known to be there, or words that name data.

    Raises DataError for what is not there."""
    if model_task(a).takes == "text" and not Path(text).expanduser().exists():
        return text
    check_files([text])
    return Path(text).expanduser()


def model_task(a: FromModel) -> Task:
    """The task of the model that the arguments name. Imports no torch where that is a folder."""
    from vitrail.models import load_config
    path = Path(a.model).expanduser()
    return task_of(load_config(path)) if path.is_dir() else task_for(a.model)


def open_model(a: FromModel) -> Any:
    """The model that the arguments name, in evaluation mode, on the CPU."""
    check_model(a.model, a.weights)
    from vitrail.models import create_model, load_model
    path = Path(a.model).expanduser()
    return load_model(path) if path.is_dir() else create_model(a.model, weights=a.weights, keys=a.keys)


def place(a: OnDevice) -> "torch.device":
    """The device asked for; the processor's threads are set on the way. Raises SettingsError where it is not here."""
    from vitrail.training.distributed import pick_device
    set_threads(a)
    return pick_device(a.device)


def optimised(model: Any, precision: Precision | None, device: "torch.device") -> Any:
    """The model as --optimize asks, rewritten at its first batch. Raises SettingsError anywhere but on a processor."""
    if precision is None:
        return model
    if device.type != "cpu":
        raise SettingsError(f"--optimize rewrites models for the processor, and this is {device}: add --device cpu")
    from vitrail.deploy.lazy import LazyOptimised
    return LazyOptimised(model, precision)


def set_threads(a: Threads) -> None:
    """The processor's threads as asked for."""
    import torch
    if a.threads:
        torch.set_num_threads(a.threads)


def check_free(path: str, *, overwrite: bool) -> None:
    """Raises VitrailError where something stands that may not be replaced: before the work, not after it."""
    if path and os.path.lexists(path) and not overwrite:
        raise VitrailError(f"{path}: this exists already, and nothing is overwritten unless asked: "
                           "name another place, or add --overwrite")


def check_files(paths: Iterable[str]) -> None:
    """Raises DataError for the first that is not there, before torch is imported."""
    for text in paths:
        try:
            path = Path(text).expanduser()
            there = path.exists()
        except (OSError, ValueError, RuntimeError) as e:
            raise DataError(f"{text[:80]!r}: {getattr(e, 'strerror', None) or e}") from None
        if not there or not text:               # Path("") would be this folder
            raise DataError(f"there is no file or folder {text!r}.{did_you_mean(path.name, beside(path), least=0.7)}")


def beside(path: Path) -> list[str]:
    """The names in a path's folder."""
    folder = path.parent
    if not folder.is_dir() or not os.access(folder, os.R_OK):
        return []
    return sorted(os.listdir(folder))[:10_000]
