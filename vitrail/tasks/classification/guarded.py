"""Unreadable images that do not stop an evaluation, whichever process reads them."""
import torch
from torch import Tensor

from vitrail.core.errors import DataError
from vitrail.data.batches import Transform
from vitrail.data.source import Source


class Guarded:
    """A source whose unreadable images are empty ones: only an image travels out of a loader's worker."""

    def __init__(self, source: Source):
        self.source = source
        self.name, self.classes, self.skipped, self.parts = source.name, source.classes, source.skipped, source.parts
        self.key, self.label, self.stored = source.key, source.label, source.stored
        self.digest, self.fingerprint = source.digest, source.fingerprint

    def __len__(self) -> int:
        return len(self.source)

    def read(self, index: int) -> Tensor:
        try:
            return self.source.read(index)
        except DataError:
            return torch.zeros(3, 0, 0, dtype=torch.uint8)


class Blank:
    """A transform that makes an empty image one of NaN, which no real image can become."""

    def __init__(self, transform: Transform):
        self.transform = transform

    def __call__(self, image: Tensor) -> Tensor:
        if image.numel():
            return self.transform(image)
        return torch.full_like(self.transform(torch.zeros(3, 8, 8, dtype=torch.uint8)), float("nan"))
