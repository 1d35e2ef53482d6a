"""Images that a user hands in: files, folders, bytes, PIL images, arrays, tensors. The one reader of them all."""
import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from vitrail.core.errors import DataError, did_you_mean
from vitrail.data.dataset import printable
from vitrail.data.decode import decode, reason
from vitrail.data.settings import Decoding
from vitrail.data.walk import walk

KEPT = ("1", "L", "I", "F", "I;16", "I;16B", "RGB", "CMYK")      # modes that TIFF keeps as they are
ORIENTATION = 0x0112                                    # the EXIF tag that says which side is up


def read_images(inputs: Any, how: Decoding | None = None) -> Iterator[tuple[str, Tensor | DataError]]:
    """Each image as uint8 (3, H, W), RGB, upright, with its key; or, in its place, why it cannot be read.

    inputs: the path of a file or folder, the bytes of a file, a PIL image, an array or a tensor, or an iterable of
    these. Arrays are (H, W), (H, W, C) or (N, H, W, C), tensors (C, H, W) or (N, C, H, W), with C of 1, 3 or 4:
    uint8, or floats in [0, 1]. A folder stands for the images in it, to any depth. One image is in memory at a time.

    >>> [(key, image.shape) for key, image in read_images(np.zeros((8, 6, 3), np.uint8))]
    [('#0', torch.Size([3, 8, 6]))]
    """
    for key, item in list_inputs(inputs):
        try:
            if isinstance(item, DataError):
                raise item
            yield key, decode(item if isinstance(item, Path) else as_file(item, key), name=key, how=how)
        except DataError as e:
            yield key, e


def read_image(image: Any, how: Decoding | None = None) -> Tensor:
    """The one image of these inputs: uint8 (3, H, W). Raises DataError where there is none, or there are several."""
    read = read_images(image, how)
    _, pixels = next(read, ("", DataError("there is no image")))
    if isinstance(pixels, DataError):
        raise pixels
    if next(read, None) is not None:
        raise DataError("one image is wanted here, and several were given")
    return pixels


def list_inputs(inputs: Any) -> Iterator[tuple[str, Any]]:
    """Every image by its key: a path, bytes, a PIL image, an array with its channels last, or a DataError.

    A key is the file, or "#n" for the n-th input where it is in memory, "#n.m" within a batch.
    """
    alone = isinstance(inputs, str | bytes | Path | Image.Image | np.ndarray | Tensor) or \
        not isinstance(inputs, Iterable)
    for number, item in enumerate([inputs] if alone else inputs):
        key = f"#{number}"
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
    try:
        path = path.expanduser()
        key = printable(str(path))
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
    except (OSError, RuntimeError, ValueError) as e:        # a home that is not known, a null byte
        shown = printable(str(path))
        yield shown, DataError(f"{shown}: cannot be read: {getattr(e, 'strerror', None) or e}")


def _arrays(item: NDArray[Any] | Tensor, key: str) -> Iterator[tuple[str, NDArray[Any] | DataError]]:
    if isinstance(item, Tensor):
        try:
            item = item.detach().cpu()
            item = item.float() if item.is_floating_point() else item
            item = (item.movedim(-3, -1) if item.ndim > 2 else item).numpy()
        except (RuntimeError, TypeError) as e:          # sparse, quantised and meta tensors
            yield key, DataError(f"input {key} is not a plain tensor of values: {e}")
            return
    if item.ndim == 4:
        yield from ((f"{key}.{number}", image) for number, image in enumerate(item))
    else:
        yield key, item


def as_file(image: bytes | Image.Image | NDArray[Any], key: str) -> bytes:
    """A picture in memory as a file's bytes, so that it is read like one. Raises DataError for what is not a
    picture."""
    if isinstance(image, bytes):
        return image
    file = io.BytesIO()
    try:
        picture = image if isinstance(image, Image.Image) else _picture(image, key)
        exif = Image.Exif()
        exif[ORIENTATION] = picture.getexif().get(ORIENTATION, 1)
        if picture.mode not in KEPT or ("transparency" in picture.info and picture.mode in ("1", "L", "RGB")):
            picture = picture.convert("RGBA")
        picture.save(file, "TIFF", exif=exif)
    except DataError:
        raise
    except Exception as e:                              # an image opened lazily decodes here, and may raise anything
        raise DataError(f"{key}: {reason(e)}") from None
    return file.getvalue()


def _picture(array: NDArray[Any], key: str) -> Image.Image:
    """An array (H, W) or (H, W, C) as an image. Raises DataError for anything else."""
    channels = array.shape[2] if array.ndim == 3 else 1
    if array.ndim not in (2, 3) or channels not in (1, 3, 4) or 0 in array.shape:
        raise DataError(f"input {key} has the shape {array.shape}, which is not an image: give arrays (H, W, C) or "
                        "tensors (C, H, W), with 1, 3 or 4 channels")
    if np.issubdtype(array.dtype, np.floating):
        if not (np.isfinite(array).all() and array.min() >= 0 and array.max() <= 1):
            raise DataError(f"input {key} holds floats outside [0, 1]: give the values of an image before it is "
                            "normalised, or whole numbers from 0 to 255 as uint8")
        array = np.rint(array * 255).astype(np.uint8)
    if array.dtype != np.uint8:
        raise DataError(f"input {key} holds {array.dtype} values: give uint8, or floats in [0, 1]")
    return Image.fromarray(array[:, :, 0] if array.ndim == 3 and channels == 1 else array)


def is_prepared(image: Any) -> bool:
    """Whether this is an image as a model takes it: a float tensor (3, h, w) or (1, 3, h, w)."""
    return isinstance(image, Tensor) and torch.is_floating_point(image)
