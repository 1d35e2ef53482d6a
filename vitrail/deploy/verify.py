"""An artefact beside the model it came from, on real images."""
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.core.errors import DataError, ExportError
from vitrail.core.config import Preprocessing
from vitrail.data.decode import SUFFIXES
from vitrail.data.transforms import evaluation_transform
from vitrail.data.inputs import read_image
from vitrail.explanation.picture import prepare


@dataclass(frozen=True, kw_only=True)
class Compared:
    """What the comparison saw. difference: the largest of any logit; scale: from the least logit to the largest."""

    images: int
    batches: tuple[int, ...]
    sizes: tuple[tuple[int, int], ...]
    difference: float
    scale: float
    agreement: float                # share of images with the same first answer


class Images:
    """Real images, at any size the comparison asks for. Raises DataError on what is no image, ExportError on none."""

    def __init__(self, images: Any, preprocessing: Preprocessing, *, most: int = 32):
        self.preprocessing = preprocessing
        found = _listed(images)
        if not found:
            raise ExportError("an export is compared with its model on real images, and there are none: give some of "
                              "those it will see, images=[...] (paths, arrays or tensors) or a folder")
        step = max(1.0, len(found) / most)
        self._kept = [self._open(found[int(i * step)]) for i in range(min(most, len(found)))]

    def __len__(self) -> int:
        return len(self._kept)

    def at(self, size: tuple[int, int]) -> Tensor:
        """All of them, prepared: (K, 3, h, w)."""
        transform = evaluation_transform(replace(self.preprocessing, size=size))
        return torch.stack([transform(image) if image.dtype == torch.uint8 else _fitted(image, size)
                            for image in self._kept])

    def _open(self, image: Any) -> Tensor:
        if isinstance(image, Tensor) and image.is_floating_point():
            return prepare(image, self.preprocessing).input[0].cpu().float()
        return read_image(image)


def compare(model: nn.Module, run: Callable[[Tensor], Tensor], images: Images, *, batches: Sequence[int],
            sizes: Sequence[tuple[int, int]], tolerance: float) -> Compared:
    """Every image through both, in batches of each of these counts and at each of these sizes.

    tolerance: the largest difference allowed, as a share of the scale. Raises ExportError where one is larger, where
    the artefact does not run, and where the model's answers never differ, so that nothing could be told from them.
    """
    pairs: list[tuple[Tensor, Tensor]] = []
    for size in sizes:
        pixels = images.at(size)
        for n, batch in enumerate(batches):
            # each image once, and then again until the last batch is full; the other counts get one batch each
            groups = -(-len(pixels) // batch) if n == 0 else 1
            for i in range(groups):
                given = torch.stack(list(islice(cycle(pixels), i * batch, (i + 1) * batch)))
                pairs.append((_model(model, given), _artefact(run, given)))
    ours, theirs = torch.cat([a for a, _ in pairs]), torch.cat([b for _, b in pairs])
    scale = float(ours.max() - ours.min())
    if not scale:
        raise ExportError("the model answers every image with the same score for every class, as one with a new head "
                          "does, so no comparison can tell whether the export is right: load trained weights first")
    difference = float((ours.double() - theirs.double()).abs().max())
    if not difference <= tolerance * scale:                     # nan is not
        agreement = float((ours.argmax(-1) == theirs.argmax(-1)).float().mean())
        raise ExportError(f"the artefact does not answer like the model: the largest difference of a logit is "
                          f"{difference:.3g}, {difference / scale:.2g} of their range ({tolerance:g} is allowed), and "
                          f"{agreement:.1%} of the first answers agree. Nothing was written")
    return Compared(images=len(images), batches=tuple(batches), sizes=tuple(sizes), difference=difference, scale=scale,
                    agreement=float((ours.argmax(-1) == theirs.argmax(-1)).float().mean()))


def _model(model: nn.Module, image: Tensor) -> Tensor:
    with torch.no_grad():
        try:
            out = model(image)
        except Exception as e:
            raise ExportError(f"the model itself does not take images of {image.shape[2]} x {image.shape[3]} pixels: "
                              f"{' '.join(str(e).split())[:300]}") from e
    if not isinstance(out, Tensor) or out.ndim != 2 or not out.isfinite().all():
        raise ExportError("the model does not answer these images with finite logits (B, classes)")
    return out


def _artefact(run: Callable[[Tensor], Tensor], image: Tensor) -> Tensor:
    try:
        return run(image)
    except Exception as e:                                      # the runtimes raise errors of many kinds
        raise ExportError(f"the artefact does not run on a batch of {image.shape[0]} images of {image.shape[2]} x "
                          f"{image.shape[3]} pixels: {' '.join(str(e).split())[:300]}. Nothing was written") from e


def _listed(images: Any) -> list[Any]:
    if images is None:
        return []
    if isinstance(images, str | Path):
        path = Path(images).expanduser()
        if not path.is_dir():
            return [path]
        return sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    if isinstance(images, Tensor) or hasattr(images, "__array__"):
        return list(images) if images.ndim == 4 else [images]
    if not isinstance(images, Iterable):
        raise DataError(f"a {type(images).__name__} is no collection of images: give a list, or a folder")
    return list(images)


def _fitted(image: Tensor, size: tuple[int, int]) -> Tensor:
    """A prepared image (3, h, w) at another size."""
    if tuple(image.shape[1:]) == size:
        return image
    return F.interpolate(image[None], size=size, mode="bilinear", antialias=True, align_corners=False)[0]
