"""Plain JPEGs through simplejpeg, where that is installed: the pixels are Pillow's, bit for bit, in less time.

Both hold libjpeg-turbo. Pillow hands it the file in pieces, copies every row twice and looks at each marker in Python.
"""
import os
import stat
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from PIL import Image, features
from torch import Tensor

from vitrail.data.settings import Decoding

FRAMES = frozenset([0xC0, 0xC1, 0xC2])                      # sequential, extended, progressive; in Huffman codes
TABLES = frozenset([0xC4, 0xDB, 0xDD, 0xFE])                # Huffman, quantisation, restart interval; comment
APPS = {0xE0: (b"JFIF\0", 16), 0xE1: (b"Exif\0\0", 10), 0xE2: (b"ICC_PROFILE\0", 16)}      # and least lengths
SCAN = 0xDA
ORIENTATION = 0x0112


def plain_jpeg(source: Path | bytes, how: Decoding) -> Tensor | None:
    """The pixels of a JPEG: uint8 (3, H, W), RGB, three of every four bytes in memory.

    None where Pillow is to decode it, to which every odd case and every complaint is left: CMYK, a picture that is to
    be turned, one that is too large, a file with any damage, no simplejpeg, a Pillow with another JPEG library.
    """
    decode = decoder()
    if decode is None:
        return None
    data = source if isinstance(source, bytes) else _contents(source)
    size = _size(data)
    if size is None or size[0] * size[1] > min(how.max_pixels, Image.MAX_IMAGE_PIXELS or how.max_pixels):
        return None
    part = max((s for s in (2, 4, 8) if how.draft and min(size) // how.draft >= s), default=1)     # as `draft` does
    height, width = (-(-side // part) for side in size)
    try:
        pixels = decode(data, "RGBX", min_height=height, min_width=width)
    except Exception:                                       # a mere warning of the library among them
        return None
    if pixels.shape != (height, width, 4):
        return None
    return torch.from_numpy(pixels).as_strided((3, height, width), (1, 4 * width, 4))


@cache
def decoder() -> Callable[..., Any] | None:
    """simplejpeg's; None where it is not installed, or where Pillow's library might give other pixels."""
    try:
        import simplejpeg
    except ImportError:
        return None
    return simplejpeg.decode_jpeg if features.check("libjpeg_turbo") else None


def _contents(path: Path) -> bytes:
    """A file that begins as a JPEG does; nothing of any other, nor of what is no file."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return b""
        with open(path, "rb") as file:
            start = file.read(2)
            return start + file.read() if start == b"\xff\xd8" else b""
    except OSError:
        return b""


def _size(data: bytes) -> tuple[int, int] | None:
    """Height and width by the header of an upright JPEG, grey or in colour, that holds nothing out of the ordinary."""
    if data[:2] != b"\xff\xd8":
        return None
    at, size, exif = 2, None, b""
    while at + 10 < len(data) and data[at] == 0xFF:         # the marker, its length, what it holds
        marker, length = data[at + 1], data[at + 2] << 8 | data[at + 3]
        if marker in APPS:
            name, least = APPS[marker]
            if length < least or not data.startswith(name, at + 4) or exif and marker == 0xE1:
                return None
            if marker == 0xE1:
                exif = data[at + 4:at + 2 + length]
        elif marker in FRAMES:
            if size is not None or data[at + 4] != 8 or data[at + 9] not in (1, 3):
                return None
            size = data[at + 5] << 8 | data[at + 6], data[at + 7] << 8 | data[at + 8]
        elif marker == SCAN:
            return size if not exif or _upright(exif) else None
        elif marker not in TABLES:
            return None
        at += 2 + length
    return None


def _upright(block: bytes) -> bool:
    """Whether an Exif block that is read without complaint leaves the picture as it is."""
    exif = Image.Exif()
    try:
        exif.load(block)
        return exif.get(ORIENTATION, 1) == 1
    except Exception:
        return False
