"""A picture as it is, as the model sees it, and how the one lies in the other."""
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vitrail.core.errors import DataError
from vitrail.core.config import Preprocessing
from vitrail.data.inputs import is_prepared, read_image
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
    """Whatever `read_image` reads, through the model's preprocessing; a float tensor is an input already.

    Prepared tensors are (C, h, w) or (1, C, h, w). Raises DataError for anything that is not an image.
    """
    if is_prepared(image):
        return _prepared(image, preprocessing)
    pixels = read_image(image)
    seen = seen_box(tuple(pixels.shape[1:]), preprocessing)
    return Picture(pixels, evaluation_transform(preprocessing)(pixels)[None], seen)


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


def _prepared(image: Tensor, preprocessing: Preprocessing) -> Picture:
    one = image[0] if image.ndim == 4 and image.shape[0] == 1 else image
    if one.ndim != 3 or not one.numel():
        raise DataError(f"a tensor of shape {tuple(image.shape)} is not an image: give (C, h, w) or (1, C, h, w)")
    if not one.isfinite().all():
        raise DataError("the prepared image holds values that are not finite numbers")
    shown = one.detach().cpu().float()[:3]
    if len(shown) == 3 == len(preprocessing.mean):
        mean, std = (torch.tensor(v)[:, None, None] for v in (preprocessing.mean, preprocessing.std))
        shown = shown * std + mean
    else:                                                   # of other channels only light and dark can be shown
        low, high = shown.min(), shown.max()
        shown = ((shown.mean(0, keepdim=True) - low) / (high - low).clamp(min=1e-12)).expand(3, -1, -1)
    pixels = (shown.clamp(0, 1) * 255).round().to(torch.uint8)
    return Picture(pixels, one.detach()[None], (0.0, 0.0, float(one.shape[1]), float(one.shape[2])))
