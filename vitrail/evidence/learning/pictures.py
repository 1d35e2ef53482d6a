"""Real pictures for the claims about learning, in memory: handwritten digits, and textures cut from photographs."""
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vitrail.core.extras import need
from vitrail.data.formats.digits import Digits

HELD_OUT = 359          # digits that nothing is trained on, as in `vitrail train --data digits`
TEXTURES = ("brick", "grass", "gravel", "chelsea", "coffee", "immunohistochemistry", "hubble_deep_field", "coins",
            "china", "flower")


@dataclass(frozen=True)
class Pictures:
    """Images (N, 3, S, S) of mean 0 and deviation 1, and their classes (N,), to train on and to judge by."""

    name: str
    images: Tensor
    labels: Tensor
    held_out: Tensor
    held_labels: Tensor

    @property
    def classes(self) -> int:
        return int(self.labels.max()) + 1

    def few(self, count: int, seed: int) -> "Pictures":
        """`count` of the training images, as many of each class as of any other, drawn by the seed."""
        order = torch.randperm(len(self.labels), generator=torch.Generator().manual_seed(seed))
        ranks = torch.zeros(len(order), dtype=torch.long)
        for label in range(self.classes):
            of = order[self.labels[order] == label]
            ranks[of] = torch.arange(len(of))
        chosen = torch.argsort(ranks[order], stable=True)[:count]
        return replace(self, images=self.images[order[chosen]], labels=self.labels[order[chosen]])

    def to(self, device: torch.device) -> "Pictures":
        return Pictures(self.name, *(t.to(device) for t in (self.images, self.labels, self.held_out,
                                                            self.held_labels)))


def digits(size: int) -> Pictures:
    """Scikit-learn's 1,797 digits, enlarged to size x size pixels."""
    found = Digits()
    images = F.interpolate(found.images[:, None].float() / 255, (size, size), mode="bilinear", align_corners=False)
    images = ((images - images.mean()) / images.std()).expand(-1, 3, -1, -1)
    labels = torch.tensor(found.labels)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    told, held = order[HELD_OUT:], order[:HELD_OUT]
    return Pictures("digits", images[told], labels[told], images[held], labels[held])


def textures(size: int, *, train: int = 150, held: int = 50) -> Pictures:
    """Grey crops of size x size pixels from ten photographs that scikit-image and scikit-learn bundle.

    A class is a photograph. `train` crops of each come from its upper two thirds, `held` from the rest, so that no
    pixel is seen in both. Each crop is turned by a random quarter and has mean 0 and deviation 1 of its own, so that
    brightness and contrast tell nothing. Raises MissingExtra where a package is missing.
    """
    rng = np.random.default_rng(0)
    parts: tuple[list[Tensor], list[Tensor]] = ([], [])
    for photo in _photographs():
        edge = photo.shape[0] * 2 // 3
        for part, area, count in ((parts[0], photo[:edge], train), (parts[1], photo[edge:], held)):
            for _ in range(count):
                y, x = (int(rng.integers(0, side - size + 1)) for side in area.shape)
                crop = np.rot90(area[y:y + size, x:x + size], int(rng.integers(4)))
                part.append(torch.from_numpy((crop - crop.mean()) / (crop.std() + 1e-6)).float())
    images, held_out = (torch.stack(part)[:, None].expand(-1, 3, -1, -1) for part in parts)
    labels, held_labels = (torch.arange(len(TEXTURES)).repeat_interleave(n) for n in (train, held))
    return Pictures("textures", images, labels, held_out, held_labels)


def _photographs() -> Iterator[np.ndarray]:
    """The ten, grey, in 0 to 1, large ones at half of their size, so that a crop holds some of the texture."""
    bundled, samples = need("skimage.data"), need("sklearn.datasets")
    for name in TEXTURES:
        photo = samples.load_sample_image(f"{name}.jpg") if name in ("china", "flower") else getattr(bundled, name)()
        grey = np.asarray(photo, dtype=np.float64) / 255
        grey = grey if grey.ndim == 2 else grey @ np.array([0.299, 0.587, 0.114])
        yield grey[::2, ::2] if min(grey.shape) >= 400 else grey


SETS: dict[str, Callable[[int], Pictures]] = {"digits": digits, "textures": textures}


@cache
def pictures(name: str, size: int) -> Pictures:
    """One of the sets, size x size pixels, made once a process."""
    return SETS[name](size)
