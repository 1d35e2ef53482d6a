"""What the verbs ask of a classifier's output, and what they feed it."""
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vitrail.core.config import ModelConfig
from vitrail.core.errors import DataError, ExplainError, ExportError, did_you_mean
from vitrail.data.inputs import is_prepared, list_inputs, read_image
from vitrail.data.transforms import evaluation_transform


def score(output: Tensor, target: int | Tensor) -> Tensor:
    """The logit of each image's class: (B, K) and numbers (B,), or one for all, to (B,)."""
    if not isinstance(target, Tensor):
        target = torch.full_like(output[:, 0], target, dtype=torch.long)
    return output.gather(1, target[:, None])[:, 0]


def targets(model: Any, output: Tensor, target: int | str | None) -> tuple[Tensor, tuple[str, ...], Tensor]:
    """The class of each image that is asked about: its number (B,), its name, and its probability (B,).

    target: a number or a label; the class that the model prefers, unless given. Raises ExplainError for another.
    """
    labels = model.config.spec.labels
    if target is None:
        numbers = output.argmax(-1)
    else:
        numbers = torch.full((len(output),), _number(model.config.model, labels, target), device=output.device)
    names = tuple(labels[number] if number < len(labels) else str(number) for number in numbers.tolist())
    return numbers, names, output.double().softmax(-1).gather(1, numbers[:, None])[:, 0]


def _number(model: str, labels: tuple[str, ...], target: int | str) -> int:
    """The number of a class by its name, or by its number, which may be written out. Raises ExplainError."""
    if isinstance(target, str) and target in labels:
        return labels.index(target)
    if isinstance(target, str) and not target.removeprefix("-").isdecimal():
        raise ExplainError(f"{model} knows no class {target!r}.{did_you_mean(target, labels)}")
    if not 0 <= int(target) < len(labels):
        raise ExplainError(f"{model} has {len(labels)} classes, 0 to {len(labels) - 1}, and {target} is not one of "
                           "them")
    return int(target)


def agreement(output: Tensor, other: Tensor) -> float:
    """The share of images that get the same class: logits (B, K) and (B, K)."""
    return float((output.argmax(-1) == other.argmax(-1)).float().mean())


def example_inputs(config: ModelConfig, batch: int = 1, size: tuple[int, int] | None = None) -> Tensor:
    """Images of zeros (B, C, H, W), at the model's own size unless given."""
    height, width = size or config.spec.preprocessing.size
    return torch.zeros(batch, config.arguments.get("in_chans", 3), height, width)


def read_inputs(config: ModelConfig, data: Any, *, most: int = 32,
                size: tuple[int, int] | None = None) -> Iterator[Tensor]:
    """Real images as the model takes them, (3, h, w) each: at most `most`, spread evenly over what is given.

    data: a folder, paths, arrays, PIL images or tensors; float tensors are taken as prepared. Raises DataError for
    what is not an image, ExportError where there is none.
    """
    preprocessing = config.spec.preprocessing
    size = size or preprocessing.size
    transform = evaluation_transform(replace(preprocessing, size=size))
    listed = [] if data is None else list(_listed(data))
    if not listed:
        raise ExportError("the answers are compared on real images, and there are none: give some of those the model "
                          "will see, images=[...] (paths, arrays or tensors) or a folder")
    step = max(1.0, len(listed) / most)
    for number in range(min(most, len(listed))):
        item = listed[int(number * step)]
        yield _fitted(item, size) if is_prepared(item) else transform(read_image(item))


def _listed(data: Any) -> Iterator[Any]:
    if isinstance(data, Tensor):
        yield from data if data.ndim == 4 else [data]
        return
    if isinstance(data, list | tuple):
        for item in data:
            yield from _listed(item)
        return
    for _, item in list_inputs(data):
        if isinstance(item, DataError):
            raise item
        yield item


def _fitted(image: Tensor, size: tuple[int, int]) -> Tensor:
    """A prepared image (3, h, w) at another size."""
    image = (image[0] if image.ndim == 4 else image).detach().cpu().float()
    if not image.isfinite().all():
        raise DataError("the prepared image holds values that are not finite numbers")
    if tuple(image.shape[1:]) == size:
        return image
    return F.interpolate(image[None], size=size, mode="bilinear", antialias=True, align_corners=False)[0]
