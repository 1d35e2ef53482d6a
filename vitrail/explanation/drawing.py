"""Heat as colour: dark to light in equal steps for the eye, so that more is always brighter."""
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

SMALL = 224             # pictures smaller than this are drawn larger

# nine stops of a map of rising lightness, from near black over violet and orange to pale yellow
STOPS = np.array([(0, 0, 4), (31, 12, 72), (85, 15, 109), (136, 34, 106), (186, 54, 85), (227, 89, 51), (249, 140, 10),
                  (249, 201, 50), (252, 255, 164)], dtype=np.float32)


def colours(heat: NDArray[np.float32]) -> NDArray[np.float32]:
    """Values in [0, 1] of any shape (...) as RGB (..., 3) in 0 to 255."""
    at = np.linspace(0, 1, len(STOPS))
    return np.stack([np.interp(heat, at, STOPS[:, c]) for c in range(3)], -1).astype(np.float32)


def to_unit(heat: NDArray[np.float32]) -> NDArray[np.float32]:
    """Brought to [0, 1], from the least value to the 99.5th percentile, so that one peak does not hide the rest.

    Where everything is equal, all 0. nan stays nan.
    """
    seen = heat[~np.isnan(heat)]
    if not seen.size:
        return heat
    low, high = float(seen.min()), float(np.percentile(seen, 99.5))
    high = high if high > low else float(seen.max())
    # differences that are rounding, not content, are not shown
    if high - low <= 1e-6 * max(abs(high), abs(low)):
        return np.where(np.isnan(heat), heat, np.float32(0))
    return np.clip((heat - low) / (high - low), 0, 1).astype(np.float32)


def overlay(pixels: Tensor, heat: NDArray[np.float32]) -> Image.Image:
    """A picture uint8 (3, H, W) at the size of the heat (h, w), darkened where cold, coloured where warm."""
    size = heat.shape
    smooth = max(size) <= max(pixels.shape[1:]) or max(pixels.shape[1:]) > 64
    picture = F.interpolate(pixels[None].float(), size=size, mode="bicubic" if smooth else "nearest",
                            **({"antialias": True} if smooth else {}))[0].clamp(0, 255).permute(1, 2, 0).numpy()
    unit = to_unit(heat)
    warm = np.nan_to_num(unit, nan=0.0)[..., None]
    base = (picture @ np.array([0.299, 0.587, 0.114], dtype=np.float32))[..., None]     # all colour is the heat's
    cover = 0.15 + 0.55 * warm
    mixed = (1 - cover) * base + cover * colours(warm[..., 0])
    unseen = np.isnan(unit)[..., None]
    return Image.fromarray(np.where(unseen, 0.25 * base, mixed).round().astype(np.uint8))


def cell(heat: NDArray[np.float32], side: int) -> Image.Image:
    """A small map as a tile whose longer side is `side` pixels, one block a token."""
    h, w = heat.shape
    scale = side / max(h, w)
    tile = Image.fromarray(colours(to_unit(heat)).round().astype(np.uint8))
    return tile.resize((max(1, round(w * scale)), max(1, round(h * scale))), Image.Resampling.NEAREST)


def write(image: Image.Image, at: tuple[float, float], text: str, *, size: int = 14, anchor: str = "lt") -> None:
    """Dark text on an image, by Pillow's own font."""
    font: Any = ImageFont.load_default(size)
    ImageDraw.Draw(image).text(at, text, fill=(30, 30, 30), font=font, anchor=anchor)


def as_image(pixels: Tensor, side: int) -> Image.Image:
    """uint8 (3, H, W) with its longer side `side` pixels."""
    image = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
    scale = side / max(image.size)
    smooth = Image.Resampling.LANCZOS if max(image.size) > 64 else Image.Resampling.NEAREST
    return image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))), smooth)


def blank(width: int, height: int) -> Image.Image:
    return Image.new("RGB", (width, height), (255, 255, 255))




def matrix(heat: NDArray[np.float32], rows: Sequence[str], columns: Sequence[str], side: int) -> Image.Image:
    """Values in [0, 1] (rows, columns) as cells of `side` pixels, each row and column with its name."""
    font: Any = ImageFont.load_default(max(8, side // 2))
    left = 12 + round(max(font.getlength(text) for text in rows))
    top = 12 + round(max(font.getlength(text) for text in columns))
    cells = Image.fromarray(colours(heat).round().astype(np.uint8))
    cells = cells.resize((side * len(columns), side * len(rows)), Image.Resampling.NEAREST)
    sheet = blank(left + cells.width + 4, top + cells.height + 4)
    sheet.paste(cells, (left, top))
    size = max(8, side // 2)
    for i, text in enumerate(rows):
        write(sheet, (left - 6, top + (i + 0.5) * side), text, size=size, anchor="rm")
    # names of columns stand upright: written along a strip that is then turned
    strip = blank(top, cells.width)
    for i, text in enumerate(columns):
        write(strip, (6, (i + 0.5) * side), text, size=size, anchor="lm")
    sheet.paste(strip.transpose(Image.Transpose.ROTATE_90), (left, 0))
    return sheet
