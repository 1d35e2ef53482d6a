"""Pictures resized and normalised, byte by byte the same as by torchvision's v2 and in less time where memory allows.

`decode` lays a pixel down as four bytes, of which a picture (3, H, W) shows three. torch resizes four interleaved
channels as fast as three, and a machine word a pixel is taken apart far faster than three bytes are.
"""
import math
import platform

import torch
from torch import Tensor

from vitrail.core.config import Preprocessing
from vitrail.core.torchvision_guard import import_torchvision

# Where torchvision too resizes bytes as bytes. All of these store a word's lowest byte first.
NATIVE = (torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
          or platform.machine().lower() in ("aarch64", "arm64"))
REACH = {"bicubic": 2, "bilinear": 1}                       # of the filter, in pixels of the coarser grid
RESIZE = {"bicubic": torch.ops.aten._upsample_bicubic2d_aa.default,
          "bilinear": torch.ops.aten._upsample_bilinear2d_aa.default}


def packed(image: Tensor) -> bool:
    """Whether a picture (3, H, W) shows the first three of every four bytes."""
    if image.dtype != torch.uint8 or image.dim() != 3 or image.shape[0] != 3 or image.device.type != "cpu":
        return False
    (_, height, width), (plane, row, pixel), start = image.shape, image.stride(), image.storage_offset()
    end = start + (height - 1) * row + width * 4
    return (NATIVE and plane == 1 and pixel == 4 and row % 4 == 0 and start % 4 == 0
            and end <= image.untyped_storage().nbytes())


def resize(image: Tensor, size: tuple[int, int], interpolation: str) -> Tensor:
    """uint8 (3, H, W) to (3, *size), antialiased."""
    return _part(image, size, (0, 0), size, interpolation)


def middle(image: Tensor, size: tuple[int, int], crop: tuple[int, int], interpolation: str) -> Tensor:
    """The centre, (3, *crop), of the image resized to `size`. What lies right of it and below is not worked out;
    what lies left and above is, since leaving it out would move the grid by a part of a pixel."""
    top, left = (round((whole - part) / 2) for whole, part in zip(size, crop, strict=True))
    return _part(image, size, (top, left), (top + crop[0], left + crop[1]), interpolation)


def _part(image: Tensor, size: tuple[int, int], start: tuple[int, int], end: tuple[int, int],
          interpolation: str) -> Tensor:
    """The image resized to `size`, from row and column `start` until `end`."""
    if interpolation not in RESIZE or not packed(image):
        import_torchvision()
        from torchvision.transforms.v2 import InterpolationMode, functional
        image = functional.resize(image, list(size), interpolation=InterpolationMode(interpolation), antialias=True)
        return image[:, start[0]:end[0], start[1]:end[1]]
    height, width = image.shape[-2:]
    # torch leaves a side alone whose length stays the same, and must not where that is the part's length only.
    rows, columns = (e + (e == old != new) for e, old, new in zip(end, (height, width), size, strict=True))
    read = height                                           # rows that the part depends on
    if size[0] < height:
        read = min(height, math.ceil((rows + REACH[interpolation]) * height / size[0]) + 1)
    row = image.stride(1)
    whole = image.as_strided((1, 4, read, width), (height * row, 1, row, 4))        # channels last, and so the result
    found = RESIZE[interpolation](whole, [rows, columns], False, size[0] / height, size[1] / width)
    return found.as_strided((3, end[0] - start[0], end[1] - start[1]), (1, 4 * columns, 4),
                            4 * (start[0] * columns + start[1]))


def _words(image: Tensor) -> Tensor:
    """All four bytes of a packed picture's pixels, as int32 (H, W)."""
    return image.as_strided((*image.shape[-2:], 4), (image.stride(1), 4, 1)).view(torch.int32)[..., 0]


class Normalise:
    """uint8 (3, h, w) to float32, contiguous: (x / 255 - mean) / std, as one product and one sum."""

    def __init__(self, p: Preprocessing) -> None:
        self.scale = torch.tensor([1 / (255 * s) for s in p.std]).view(3, 1, 1)
        self.shift = torch.tensor([-m / s for m, s in zip(p.mean, p.std, strict=True)]).view(3, 1, 1)
        place = torch.tensor([1, 1 << 8, 1 << 16], dtype=torch.int32).view(3, 1, 1)
        self.mask, self.scale_of_masked = 255 * place, self.scale / place       # by powers of two: nothing is rounded

    def __call__(self, image: Tensor) -> Tensor:
        if packed(image):
            masked = _words(image) & self.mask
            values, scale = masked.view(torch.float32).copy_(masked), self.scale_of_masked      # in its own memory
        else:
            values, scale = torch.empty(image.shape, dtype=torch.float32).copy_(image), self.scale
        return values.mul_(scale).add_(self.shift)
