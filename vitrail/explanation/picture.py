"""A picture as it is, as the model sees it, and how the one lies in the other."""
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from vitrail.core.errors import DataError
from vitrail.core.config import Preprocessing
from vitrail.data.decode import decode
from vitrail.data.transforms import LONGEST, evaluation_transform, resized


@dataclass(frozen=True, eq=False)
class Picture:
    """pixels: uint8 (3, H, W), upright. input: float (1, 3, h, w), as the model takes it.

    box: what of the picture the model sees: top, left, bottom, right, in the picture's pixels.
    """

    pixels: Tensor
    input: Tensor
    box: tuple[float, float, float, float]


def prepare(image: Any, preprocessing: Preprocessing) -> Picture:
    """A path, PIL image, array or uint8 tensor through the model's preprocessing; a float tensor is an input already.

    Arrays are (H, W), (H, W, 1), (H, W, 3) or (H, W, 4): uint8, or floats in [0, 1]. Tensors are (3, h, w) or
    (1, 3, h, w). Raises DataError for anything that is no image.
    """
    if isinstance(image, Tensor):
        one = image[0] if image.ndim == 4 and image.shape[0] == 1 else image
        if one.ndim != 3 or one.shape[0] != 3 or not one.numel():
            raise DataError(f"a tensor of shape {tuple(image.shape)} is no image: give (3, H, W) or (1, 3, H, W)")
        if one.is_floating_point():
            return _prepared(one, preprocessing)
    pixels = read(image)
    return Picture(pixels, evaluation_transform(preprocessing)(pixels)[None], seen_box(tuple(pixels.shape[1:]), preprocessing))


def read(image: Any) -> Tensor:
    """A path, PIL image, array or uint8 tensor as uint8 (3, H, W), RGB, upright. Raises DataError."""
    if isinstance(image, str | Path):
        return decode(Path(image).expanduser(), name=str(image))
    if isinstance(image, Image.Image):
        return _read_pil(image)
    if isinstance(image, np.ndarray):
        return _read_array(image)
    if isinstance(image, Tensor):
        one = image[0] if image.ndim == 4 and image.shape[0] == 1 else image
        if one.ndim != 3 or one.shape[0] != 3 or not one.numel() or one.dtype != torch.uint8:
            raise DataError(f"a {image.dtype} tensor of shape {tuple(image.shape)} is no picture: give uint8 (3, H, W)")
        return one.detach().cpu()
    raise DataError(f"a {type(image).__name__} is no image: give a path, a PIL image, an array or a tensor")


def seen_box(size: tuple[int, ...], preprocessing: Preprocessing) -> tuple[float, float, float, float]:
    """What of a picture of `size` (height, width) the evaluation transform keeps: top, left, bottom, right."""
    longest = LONGEST * min(size)
    cut = tuple(min(side, longest) for side in size)
    starts, ends = [], []
    for side, kept, whole, crop in zip(size, cut, resized(cut, preprocessing), preprocessing.size, strict=True):
        scale = kept / whole                                        # pixels of the picture a pixel of the model
        start = round((side - kept) / 2) + round((whole - crop) / 2) * scale
        starts.append(start)
        ends.append(start + crop * scale)
    return starts[0], starts[1], ends[0], ends[1]


def _prepared(one: Tensor, preprocessing: Preprocessing) -> Picture:
    if not one.isfinite().all():
        raise DataError("the prepared image holds values that are not finite numbers")
    mean, std = (torch.tensor(v)[:, None, None] for v in (preprocessing.mean, preprocessing.std))
    pixels = ((one.detach().cpu().float() * std + mean).clamp(0, 1) * 255).round().to(torch.uint8)
    return Picture(pixels, one.detach()[None], (0.0, 0.0, float(one.shape[1]), float(one.shape[2])))


def _read_pil(image: Image.Image) -> Tensor:
    """By way of a PNG in memory, so that every kind is read by the same rules as a file."""
    file = io.BytesIO()
    try:
        upright = ImageOps.exif_transpose(image)
        upright.info.pop("exif", None)
        if upright.mode in ("CMYK", "YCbCr", "HSV", "LAB", "F", "RGBa", "La", "PA", "RGBX"):
            upright = upright.convert("RGBA" if upright.mode in ("RGBa", "La", "PA") else "RGB")
        upright.save(file, "PNG", compress_level=1)
    except (OSError, ValueError, SyntaxError) as e:
        raise DataError(f"the PIL image is not readable: {e}") from None
    return decode(file.getvalue(), name="the PIL image")


def _read_array(array: np.ndarray) -> Tensor:
    channels = array.shape[2] if array.ndim == 3 else 1
    if array.ndim not in (2, 3) or channels not in (1, 3, 4) or 0 in array.shape:
        raise DataError(f"an array of shape {array.shape} is no image: give (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)")
    if np.issubdtype(array.dtype, np.floating):
        if not (np.isfinite(array).all() and array.min() >= 0 and array.max() <= 1):
            raise DataError("an array of floats must hold values from 0 to 1; a normalised image is given as a tensor")
        array = np.rint(array * 255).astype(np.uint8)
    if array.dtype != np.uint8:
        raise DataError(f"an array of {array.dtype} is no image: give uint8, or floats from 0 to 1")
    return _read_pil(Image.fromarray(array[:, :, 0] if array.ndim == 3 and channels == 1 else array))
