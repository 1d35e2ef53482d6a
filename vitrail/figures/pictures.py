"""Pictures for pages: small, and as bytes that a page can hold."""
import io

from PIL import Image
from torch import Tensor

SIDE = 240                                  # pixels of the longer side


def png_of(image: Image.Image) -> bytes:
    """The picture as a PNG file."""
    file = io.BytesIO()
    image.save(file, format="PNG", optimize=True)
    return file.getvalue()


def thumbnail(pixels: Tensor, side: int = SIDE) -> Image.Image:
    """uint8 (3, H, W) as a picture whose longer side is `side`; small ones keep their square pixels."""
    image = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
    scale = side / max(image.size)
    return image.resize(_size(image, side), Image.Resampling.NEAREST if scale > 2 else Image.Resampling.LANCZOS)


def fit(image: Image.Image, side: int = SIDE) -> Image.Image:
    """The picture with its longer side `side` pixels."""
    return image.resize(_size(image, side))


def _size(image: Image.Image, side: int) -> tuple[int, int]:
    scale = side / max(image.size)
    return max(1, round(image.width * scale)), max(1, round(image.height * scale))
