"""Images with their classes, as batches."""
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vitrail.core.errors import DataError, SettingsError
from vitrail.data import batch as batches
from vitrail.data.batch import empty_batch, seed_sample
from vitrail.tasks.classification.mixing import apply, draw
from vitrail.tasks.classification.settings import Mixing

Transform = Callable[[Tensor], Tensor]


@dataclass
class Batch(batches.Batch):
    """One process's share of a batch. plan: how pairs of images are mixed, where they are; its two rows of a pair are
    equal, so that a micro-batch keeps it. unread: why an image is blank, by its place, where such are let through."""

    images: Tensor                                          # (B, 3, h, w) float32, normalised
    labels: Tensor                                          # (B) int64
    plan: Tensor | None = None                              # (B, 6) float32
    unread: dict[int, str] | None = None

    def mixed(self, targets: Tensor) -> tuple[Tensor, Tensor]:
        """The images and the targets (B, K), mixed by the plan."""
        assert self.plan is not None
        return apply(self.images, targets, self.plan[::2])


class CollateImages:
    """Images through a transform, and the numbers of their classes. What is drawn for an image is a function of seed,
    epoch and index; the plan of a pair that is mixed, of seed, epoch and both indices.

    transform: uint8 (3, H, W) -> float32 (3, h, w). on_error: "stop" raises the DataError of an image that cannot be
    read, "skip" lets it through as a blank one and says so.
    """

    def __init__(self, transform: Transform, *, seed: int = 0, mixing: Mixing | None = None, on_error: str = "stop"):
        self.transform = transform
        self.seed = seed
        self.mixing = mixing if mixing is not None and mixing.on else None
        self.on_error = on_error

    def __call__(self, dataset: Any, indices: Sequence[int], epoch: int, mine: slice) -> Batch:
        own = list(indices[mine])
        images, unread = self._images(dataset, own, epoch)
        labels = torch.tensor([dataset.targets(index)["class"] for index in own])
        plan = None
        if self.mixing is not None:
            height, width = images.shape[-2:]
            plan = draw(own, mixing=self.mixing, seed=self.seed, epoch=epoch, size=(height, width))
            plan = plan.repeat_interleave(2, 0)
        return Batch(indices=torch.tensor(own), images=images, labels=labels, plan=plan, unread=unread or None)

    def _images(self, dataset: Any, indices: list[int], epoch: int) -> tuple[Tensor, dict[int, str]]:
        """All images, each put in its place while it is in the cache: stacking them at the end took longer."""
        images: Tensor | None = None
        unread: dict[int, str] = {}
        for place, index in enumerate(indices):
            seed_sample(self.seed, epoch, index)
            try:
                image = self.transform(dataset.image(index))
            except DataError as e:
                if self.on_error != "skip":
                    raise
                unread[place] = str(e)
                image = self.transform(torch.zeros(3, 8, 8, dtype=torch.uint8))
            if images is None:
                first = image
                images = empty_batch(len(indices), image)
            if (image.shape, image.dtype) != (first.shape, first.dtype):
                raise SettingsError(f"{dataset.name}: a batch needs images of one size and type, and the transform "
                                    f"makes {tuple(first.shape)} {first.dtype} of {dataset.key(indices[0])} and "
                                    f"{tuple(image.shape)} {image.dtype} of {dataset.key(index)}")
            images[place] = image
        assert images is not None, "a batch of no samples is not asked for"
        return images, unread
