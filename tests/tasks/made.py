"""Tiny sources and classifiers in memory, whose right answers are known."""
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vitrail.core.errors import DataError
from vitrail.core.config import ModelConfig, Preprocessing
from vitrail.data.dataset import Skipped
from vitrail.data.images import ImageDataset
from vitrail.nn.features import Features
from vitrail.tasks.classification.model import Classifier
from vitrail.tasks.classification.spec import ClassificationSpec

PLAIN = Preprocessing(size=(8, 8), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), crop=1.0, interpolation="nearest")


def config(model: str, labels: Sequence[str], preprocessing: Preprocessing = PLAIN) -> ModelConfig:
    """What a classifier says of itself."""
    return ModelConfig(model=model, task="classification",
                       spec=ClassificationSpec(labels=tuple(labels), preprocessing=preprocessing))


class Greys(ImageDataset):
    """One flat grey image a sample: its shade is 20 times its answer, its label is what the data set says."""

    def __init__(self, shown: Sequence[int], labels: Sequence[int], classes: Sequence[str], *,
                 broken: Sequence[int] = (), skipped: tuple[Skipped, ...] = ()):
        self.shown, self.labels, self.classes, self.broken = shown, labels, tuple(classes), broken
        self.name, self.skipped = "greys", skipped

    def __len__(self) -> int:
        return len(self.labels)

    def key(self, index: int) -> str:
        return f"image-{index}"

    def targets(self, index: int) -> dict[str, Any]:
        return {"class": self.labels[index]}

    def stratum(self, index: int) -> str:
        return self.classes[self.labels[index]]

    def image(self, index: int) -> Tensor:
        if index in self.broken:
            raise DataError(f"image-{index}: it is torn")
        return torch.full((3, 8, 8), 20 * self.shown[index], dtype=torch.uint8)

    def stored(self, index: int) -> bytes:
        return bytes([self.shown[index]])

    def digest(self, index: int) -> str:
        return f"{self.shown[index]}"

    def fingerprint(self) -> str:
        return "print of " + ",".join(map(str, self.shown))


class Shade(nn.Module):
    """The image's mean as a map of one place: image (B, 3, H, W) -> Features."""

    channels, strides = (1,), (8,)

    def forward(self, image: Tensor) -> Features:
        return Features([image.mean((1, 2, 3))[:, None, None, None]], None)


class Nearest(nn.Module):
    """Class k for the shade 20 k / 255: logits fall with the distance."""

    def __init__(self, classes: int, sharp: float = 4.0):
        super().__init__()
        self.centres = nn.Parameter(20 * torch.arange(classes) / 255)
        self.sharp = sharp

    def forward(self, f: Features) -> Tensor:
        return -self.sharp * (f.maps[-1].flatten(1) - self.centres).abs() * 255 / 20


def reader(labels: Sequence[str], *, sharp: float = 4.0, preprocessing: Preprocessing = PLAIN) -> Classifier:
    """A classifier that answers class k for an image of shade 20 k."""
    return Classifier(Shade(), Nearest(len(labels), sharp),
                      config("shade", labels, preprocessing)).eval()


class Flat(nn.Module):
    """The image's own pixels as one place: image (B, 3, H, W) -> Features of width 3 H W."""

    def forward(self, image: Tensor) -> Features:
        return Features([image.flatten(1)[:, None, None, :]], None)


class Line(nn.Module):
    def __init__(self, width: int, classes: int):
        super().__init__()
        self.linear = nn.Linear(width, classes)

    def forward(self, f: Features) -> Tensor:
        return self.linear(f.maps[-1].flatten(1))


class TwoLines(nn.Module):
    """A distilled head: one answer for the labels, one for the teacher."""

    def __init__(self, width: int, classes: int):
        super().__init__()
        self.labels, self.distilled = nn.Linear(width, classes), nn.Linear(width, classes)

    def separate(self, f: Features) -> tuple[Tensor, Tensor]:
        x = f.maps[-1].flatten(1)
        return self.labels(x), self.distilled(x)

    def forward(self, f: Features) -> Tensor:
        a, b = self.separate(f)
        return (a + b) / 2


def linear(classes: int, *, two: bool = False, seed: int = 0, side: int = 8, labels: Sequence[str] = (),
           preprocessing: Preprocessing = PLAIN) -> Classifier:
    """A linear classifier of images of side x side pixels, with seeded weights."""
    torch.manual_seed(seed)
    head = (TwoLines if two else Line)(3 * side * side, classes)
    names = tuple(labels) or tuple(map(str, range(classes)))
    return Classifier(Flat(), head, config("linear", names, preprocessing))
