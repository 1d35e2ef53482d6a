"""From a decoded picture to a model's input: torchvision's v2 transforms on uint8 tensors.

The two classes hold settings only and build their pipeline at first use, so that they travel to a loader's
worker whatever way the worker starts.
"""
from collections.abc import Callable
from typing import Any

from torch import Tensor

from vitrail.core.errors import SettingsError, did_you_mean
from vitrail.core.config import Preprocessing
from vitrail.core.torchvision_guard import import_torchvision
from vitrail.data.resample import Normalise, middle, resize
from vitrail.data.settings import Augmentation

INTERPOLATIONS = ("bicubic", "bilinear", "nearest")
LONGEST = 8                                                 # a longer form is cut to this ratio before it is resized


class Training:
    """Random crop, mirror, RandAugment, colour jitter, normalise, random erasing: see `Augmentation`.

    uint8 (3, H, W) to float32 (3, h, w). Draws from torch's global CPU generator.
    """

    def __init__(self, preprocessing: Preprocessing, augmentation: Augmentation) -> None:
        _check(preprocessing)
        import_torchvision()                                # here, so that forked workers have it already
        self.preprocessing, self.augmentation = preprocessing, augmentation
        self.pipeline: Callable[[Tensor], Tensor] | None = None

    def __call__(self, image: Tensor) -> Tensor:
        if self.pipeline is None:
            self.pipeline = self._build()
        return self.pipeline(image).contiguous()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"pipeline": None}

    def _build(self) -> Callable[[Tensor], Tensor]:
        import_torchvision()
        from torchvision.transforms import v2

        p, a = self.preprocessing, self.augmentation
        grey = [round(m * 255) for m in p.mean]             # what comes into view at the sides of a turned image
        steps: list[Any] = [_RandomResizedCrop(v2.RandomResizedCrop(list(p.size), scale=a.scale, ratio=a.ratio), p)]
        if a.flip:
            steps.append(v2.RandomHorizontalFlip(a.flip))
        if a.vertical_flip:
            steps.append(v2.RandomVerticalFlip(a.vertical_flip))
        if a.randaugment_ops:
            steps.append(v2.RandAugment(a.randaugment_ops, a.randaugment_magnitude, fill=grey,
                                        interpolation=v2.InterpolationMode.BILINEAR))
        if a.jitter:
            steps.append(v2.ColorJitter(a.jitter, a.jitter, a.jitter))
        steps.append(Normalise(p))
        if a.erase:
            steps.append(v2.RandomErasing(a.erase, value="random"))
        return v2.Compose(steps)


class Evaluation:
    """The image resized so that its centre crop holds `crop` of the shorter side, cropped and normalised.

    uint8 (3, H, W) to float32 (3, h, w). The same every time.
    """

    def __init__(self, preprocessing: Preprocessing) -> None:
        _check(preprocessing)
        import_torchvision()
        self.preprocessing = preprocessing
        self.normalise = Normalise(preprocessing)

    def __call__(self, image: Tensor) -> Tensor:
        p = self.preprocessing
        height, width = image.shape[-2:]
        if max(height, width) > LONGEST * min(height, width):       # only the middle is used: resize no more
            import_torchvision()
            from torchvision.transforms.v2 import functional

            longest = LONGEST * min(height, width)
            image = functional.center_crop(image, [min(height, longest), min(width, longest)])
        size = resized(tuple(image.shape[-2:]), p)
        return self.normalise(middle(image, size, p.size, p.interpolation))


def training_transform(preprocessing: Preprocessing, augmentation: Augmentation) -> Training:
    return Training(preprocessing, augmentation)


def evaluation_transform(preprocessing: Preprocessing) -> Evaluation:
    return Evaluation(preprocessing)


def resized(size: tuple[int, ...], p: Preprocessing) -> tuple[int, int]:
    """Height and width to which an image of `size` (height, width) is brought before the centre crop."""
    scale = max(wanted / p.crop / side for wanted, side in zip(p.size, size, strict=True))
    height, width = (max(wanted, round(side * scale)) for wanted, side in zip(p.size, size, strict=True))
    return height, width


class _RandomResizedCrop:
    """A crop of torchvision's drawing, resized."""

    def __init__(self, draw: Any, p: Preprocessing) -> None:
        self.draw, self.size, self.interpolation = draw, p.size, p.interpolation

    def __call__(self, image: Tensor) -> Tensor:
        at = self.draw.make_params([image])
        top, left = at["top"], at["left"]
        crop = image[:, top:top + at["height"], left:left + at["width"]]
        return resize(crop, self.size, self.interpolation).contiguous()     # the steps that follow are fast on planes


def _check(p: Preprocessing) -> None:
    if p.interpolation not in INTERPOLATIONS:
        raise SettingsError(f"interpolation is {p.interpolation!r}, and must be one of {', '.join(INTERPOLATIONS)}."
                            f"{did_you_mean(p.interpolation, INTERPOLATIONS)}")
    if len(p.size) != 2 or min(p.size) < 1 or max(p.size) > 16384:
        raise SettingsError(f"size is {p.size}, and must be a height and a width from 1 to 16384 pixels")
    if not 0.1 <= p.crop <= 1:
        raise SettingsError(f"crop is {p.crop}, and must be from 0.1 to 1")
    if min(p.std) <= 0:
        raise SettingsError(f"std is {p.std}, and every deviation must be above 0")
