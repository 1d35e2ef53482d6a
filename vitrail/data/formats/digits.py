"""Scikit-learn's handwritten digits: 1797 real images of 8 x 8 pixels, bundled, no network."""
from typing import Any

import torch
from torch import Tensor

from vitrail.core.errors import MissingExtra
from vitrail.data.settings import Opening
from vitrail.data.formats.classes import class_order
from vitrail.data.images import ImageDataset


class Digits(ImageDataset):
    """The UCI test set of handwritten digits (Alpaydin and Kaynak 1998), greys 0-16 rendered as RGB 0-255."""

    name = "digits"

    def __init__(self, opening: Opening | None = None) -> None:
        try:
            from sklearn.datasets import load_digits
        except ImportError:
            raise MissingExtra.of("scikit-learn", "digits") from None
        data = load_digits()
        grey = torch.from_numpy(data.images).mul(255 / 16).round().to(torch.uint8)  # (N, 8, 8)
        self.classes = class_order((str(d) for d in data.target), opening or Opening(), self.name)
        place = [self.classes.index(str(d)) for d in range(10)]
        self.images = grey
        self.labels = [place[int(d)] for d in data.target]

    def __len__(self) -> int:
        return len(self.labels)

    def key(self, index: int) -> str:
        return f"{index:04d}"

    def targets(self, index: int) -> dict[str, Any]:
        return {"class": self.labels[index]}

    def stratum(self, index: int) -> str:
        return self.classes[self.labels[index]]

    def image(self, index: int) -> Tensor:
        return self.images[index].expand(3, -1, -1).clone()

    def stored(self, index: int) -> bytes:
        return b"P5 8 8 255\n" + self.images[index].numpy().tobytes()      # as a file of the PGM format
