"""Answers for images nobody labelled: files, folders, PIL images, arrays and tensors."""
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from vitrail.core.errors import DataError, did_you_mean
from vitrail.data.decode import decode, reason
from vitrail.data.settings import ON_ERROR, Decoding, check_choice, check_number
from vitrail.data.source import printable
from vitrail.data.transforms import evaluation_transform
from vitrail.data.walk import walk
from vitrail.tasks.classification.evaluate import answering
from vitrail.tasks.classification.metrics import ranked
from vitrail.tasks.classification.model import Classifier

KEPT = ("1", "L", "I", "F", "I;16", "I;16B", "RGB", "CMYK")      # modes that TIFF keeps as they are
ORIENTATION = 0x0112                                    # the EXIF tag that says which side is up


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """One image's answer. Where the image could not be read, ``error`` says why and there is no answer.

    key: the file, or "#n" for the n-th input where it is in memory, "#n.m" within a batch. score: the probability of
    the label. top: the best classes and their probabilities, best first.
    """

    key: str
    label: str | None = None
    score: float | None = None
    top: tuple[tuple[str, float], ...] = ()
    error: str | None = None


def predict(model: Classifier, inputs: Any, *, batch: int = 32, device: torch.device | str = "cpu", top: int = 5,
            on_error: str = "stop", decoding: Decoding | None = None) -> list[Prediction]:
    """A prediction for each image, in the order given; a folder stands for the images in it, to any depth.

    inputs: the path of a file or folder, the bytes of a file, a PIL image, an array or a tensor, or an iterable of
    these. Arrays are (H, W), (H, W, C) or (N, H, W, C), tensors (C, H, W) or (N, C, H, W), with C of 1, 3 or 4:
    uint8, or floats in [0, 1]. decoding: the rules by which all of them are read, those in memory like files.
    on_error: "stop" raises the first DataError; "skip" puts it into that image's prediction.

    Raises DataError for what is not an image, ModelError for answers that are not finite, SettingsError for settings.
    """
    check_choice("on_error", on_error, ON_ERROR)
    check_number("batch", batch, 1, 2**24, whole=True)
    check_number("top", top, 1, 2**24, whole=True)
    transform = evaluation_transform(model.config.spec.preprocessing)
    model.to(device)
    done: list[Prediction] = []
    images = _read(inputs, decoding, on_error)
    while chunk := list(islice(images, batch)):
        sound = [transform(image) for _, image in chunk if isinstance(image, Tensor)]
        with answering(model):
            answers = iter(_answers(model(torch.stack(sound).to(device)), model.config.spec.labels, top) if sound else [])
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


def _read(inputs: Any, how: Decoding | None, on_error: str) -> Iterator[tuple[str, Tensor | DataError]]:
    """Each image, or the error in its place where errors are skipped; one image in memory at a time."""
    for key, found in _items(inputs):
        try:
            if isinstance(found, DataError):
                raise found
            yield key, decode(found if isinstance(found, Path) else _file(found, key), name=key, how=how)
        except DataError as e:
            if on_error == "stop":
                raise
            yield key, e


def _items(inputs: Any) -> Iterator[tuple[str, Any]]:
    """Every image by its key: a path, bytes, a PIL image, an array with its channels last, or a DataError."""
    one = isinstance(inputs, str | bytes | Path | Image.Image | np.ndarray | Tensor) or not isinstance(inputs, Iterable)
    for n, item in enumerate([inputs] if one else inputs):
        key = f"#{n}"
        if isinstance(item, str) and not item:
            yield key, DataError(f"input {key} is an empty name: give the path of a file or folder")
        elif isinstance(item, str | Path):
            yield from _paths(Path(item))
        elif isinstance(item, np.ndarray | Tensor):
            yield from _arrays(item, key)
        elif isinstance(item, bytes | Image.Image):
            yield key, item
        else:
            yield key, DataError(f"input {key} is a {type(item).__name__}: give a path, the bytes of a file, a PIL "
                                 "image, an array or a tensor")


def _paths(path: Path) -> Iterator[tuple[str, Path | DataError]]:
    key = printable(str(path))
    try:
        if path.is_dir():
            tree = walk(path)
            yield from ((printable(str(path / p)), path / p) for p in sorted(tree.images))
            yield from ((f"{key}/{p.key}", DataError(f"{key}/{p.key}: {p.why}")) for p in tree.problems)
            if not tree.images and not tree.problems:
                yield key, DataError(f"the folder {key} holds no image")
        elif path.exists():
            yield key, path
        else:
            beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
            yield key, DataError(f"there is no file {key}.{did_you_mean(path.name, beside, least=0.7)}")
    except OSError as e:
        yield key, DataError(f"{key}: cannot be read: {e.strerror}")


def _arrays(item: NDArray[Any] | Tensor, key: str) -> Iterator[tuple[str, NDArray[Any] | DataError]]:
    if isinstance(item, Tensor):
        try:
            item = item.detach().cpu()
            item = item.float() if item.is_floating_point() else item
            item = (item.movedim(-3, -1) if item.ndim > 2 else item).numpy()
        except (RuntimeError, TypeError) as e:          # sparse, quantised and meta tensors
            yield key, DataError(f"input {key} is no plain tensor of values: {e}")
            return
    if item.ndim == 4:
        yield from ((f"{key}.{m}", one) for m, one in enumerate(item))
    else:
        yield key, item


def _file(found: bytes | Image.Image | NDArray[Any], key: str) -> bytes:
    """A picture in memory as a file's bytes, so that it is read like one. Raises DataError for what is no picture."""
    if isinstance(found, bytes):
        return found
    held = io.BytesIO()
    try:
        image = found if isinstance(found, Image.Image) else _picture(found, key)
        turned = Image.Exif()
        turned[ORIENTATION] = image.getexif().get(ORIENTATION, 1)
        if image.mode not in KEPT or ("transparency" in image.info and image.mode in ("1", "L", "RGB")):
            image = image.convert("RGBA")
        image.save(held, "TIFF", exif=turned)
    except DataError:
        raise
    except Exception as e:                              # an image opened lazily decodes here, and may raise anything
        raise DataError(f"{key}: {reason(e)}") from None
    return held.getvalue()


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
