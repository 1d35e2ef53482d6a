"""Answers for images nobody labelled: files, folders, PIL images, arrays and tensors."""
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from vitrail.core.errors import DataError, SettingsError, nearest
from vitrail.tasks.classification.evaluate import answering
from vitrail.tasks.classification.feed import Transform
from vitrail.tasks.classification.metrics import ranked
from vitrail.tasks.classification.model import Classifier

SUFFIXES = (".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")

Reader = Callable[[Path | Image.Image], Tensor]         # to uint8 (3, H, W), RGB, upright; DataError names the file


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """One image's answer. Where the image could not be read, ``error`` says why and there is no answer.

    key: the file, or "#n" for the n-th input in memory, "#n.m" within a batch. score: the label's probability.
    top: the best classes and their probabilities, best first.
    """

    key: str
    label: str | None = None
    score: float | None = None
    top: tuple[tuple[str, float], ...] = ()
    error: str | None = None


def predict(model: Classifier, inputs: Any, *, transform: Transform, read: Reader, batch: int = 32,
            device: torch.device | str = "cpu", top: int = 5, on_error: str = "stop") -> list[Prediction]:
    """A prediction for each image, in the order given; a folder is read in the order of its paths, to any depth.

    inputs: a path of a file or folder, a PIL image, an array or a tensor, or an iterable of these. Arrays are
    (H, W), (H, W, C) or (N, H, W, C), tensors (C, H, W) or (N, C, H, W), with C of 1, 3 or 4: uint8, or floats in
    [0, 1]. transform and read are vitrail.data's, for the model's preprocessing.
    on_error: "stop" raises the first DataError; "skip" puts it into that image's prediction.
    Raises DataError for what is not an image, ModelError for answers that are not finite, SettingsError for settings.
    """
    if on_error not in ("stop", "skip"):
        raise SettingsError(f"on_error must be 'stop' or 'skip', and it is {on_error!r}")
    if batch < 1 or top < 1:
        raise SettingsError(f"batch and top count from 1, and they are {batch} and {top}")
    model.to(device)
    done: list[Prediction] = []
    images = _read(inputs, read, on_error)
    while chunk := list(islice(images, batch)):
        sound = [transform(image) for _, image in chunk if isinstance(image, Tensor)]
        with answering(model):
            answers = iter(_answers(model(torch.stack(sound).to(device)), model.identity.labels, top) if sound else [])
        for key, image in chunk:
            best = next(answers) if isinstance(image, Tensor) else ()
            done.append(Prediction(key=key, label=best[0][0], score=best[0][1], top=best) if best
                        else Prediction(key=key, error=str(image)))
    return done


def _answers(logits: Tensor, labels: tuple[str, ...], top: int) -> list[tuple[tuple[str, float], ...]]:
    order, log_p = ranked(logits)
    order = order[:, :top]
    sure = log_p.exp().gather(1, order)
    return [tuple((labels[c], p) for c, p in zip(*row, strict=True))
            for row in zip(order.tolist(), sure.tolist(), strict=True)]


def _read(inputs: Any, read: Reader, on_error: str) -> Iterator[tuple[str, Tensor | DataError]]:
    """Each image, or the error in its place where errors are skipped; one image in memory at a time."""
    for key, found in _items(inputs):
        try:
            if isinstance(found, DataError):
                raise found
            yield key, read(found if isinstance(found, Path | Image.Image) else _picture(found, key))
        except DataError as e:
            if on_error == "stop":
                raise
            yield key, e


def _items(inputs: Any) -> Iterator[tuple[str, Any]]:
    """Every image by its key: a path, a PIL image, an array with its channels last, or a DataError."""
    one = isinstance(inputs, str | Path | Image.Image | np.ndarray | Tensor) or not isinstance(inputs, Iterable)
    for n, item in enumerate([inputs] if one else inputs):
        key = f"#{n}"
        if isinstance(item, str | Path):
            yield from _paths(Path(item))
        elif isinstance(item, Image.Image):
            yield key, item
        elif isinstance(item, np.ndarray | Tensor):
            yield from _arrays(item, key)
        else:
            yield key, DataError(f"input {key} is a {type(item).__name__}: give a path, a PIL image, an array or "
                                 "a tensor")


def _paths(path: Path) -> Iterator[tuple[str, Path | DataError]]:
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
        yield from ((str(p), p) for p in files)
        if not files:
            yield str(path), DataError(f"the folder {path} holds no image: looked for {' '.join(SUFFIXES)}")
    elif path.exists():
        yield str(path), path
    else:
        beside = (p.name for p in path.parent.iterdir()) if path.parent.is_dir() else ()
        yield str(path), DataError(f"there is no file {path}.{nearest(path.name, beside)}")


def _arrays(item: NDArray[Any] | Tensor, key: str) -> Iterator[tuple[str, NDArray[Any]]]:
    if isinstance(item, Tensor):
        item = item.detach().cpu()
        item = (item.float() if item.is_floating_point() else item).movedim(-3, -1).numpy() if item.ndim > 2 \
            else item.numpy()
    if item.ndim == 4:
        yield from ((f"{key}.{m}", one) for m, one in enumerate(item))
    else:
        yield key, item


def _picture(array: NDArray[Any], key: str) -> Image.Image:
    """An array (H, W) or (H, W, C) as an image. Raises DataError for anything else."""
    channels = array.shape[2] if array.ndim == 3 else 1
    if array.ndim not in (2, 3) or channels not in (1, 3, 4) or 0 in array.shape:
        raise DataError(f"input {key} has the shape {array.shape}, which is no image: give arrays (H, W, C) or tensors "
                        "(C, H, W), with 1, 3 or 4 channels")
    if np.issubdtype(array.dtype, np.floating):
        if not (np.isfinite(array).all() and array.min() >= 0 and array.max() <= 1):
            raise DataError(f"input {key} holds floats outside [0, 1]: give the values of an image before it is "
                            "normalised, or whole numbers from 0 to 255 as uint8")
        array = np.rint(array * 255).astype(np.uint8)
    if array.dtype != np.uint8:
        raise DataError(f"input {key} holds {array.dtype} values: give uint8, or floats in [0, 1]")
    return Image.fromarray(array[:, :, 0] if array.ndim == 3 and channels == 1 else array)
