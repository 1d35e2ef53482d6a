"""From a file of any kind to an upright picture: uint8 (3, H, W), RGB. Every failure is a DataError.

In memory a pixel is red, green, blue and a byte that nobody reads, as Pillow keeps it: `resample` is fast on these.
"""
import io
import os
import stat
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vitrail.core.errors import DataError
from vitrail.data.jpeg import plain_jpeg
from vitrail.data.settings import Decoding

# Formats that Pillow decodes in-process. Not among them: EPS (runs Ghostscript), and stubs that need a plug-in.
FORMATS = ("AVIF", "BMP", "DIB", "GIF", "ICO", "JPEG", "JPEG2000", "PCX", "PNG", "PPM", "QOI", "SGI", "TGA", "TIFF",
           "WEBP")
SUFFIXES = frozenset([
    ".apng", ".avif", ".avifs", ".bmp", ".bw", ".dib", ".gif", ".ico", ".j2c", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg",
    ".jpf", ".jpg", ".jpx", ".mpo", ".pbm", ".pcx", ".pgm", ".png", ".pnm", ".ppm", ".qoi", ".rgb", ".sgi", ".tga",
    ".tif", ".tiff", ".webp"])

DEFAULT = Decoding()

# What undoes each EXIF orientation (tag 0x0112, values 2 to 8).
UPRIGHT = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
           5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
           8: Image.Transpose.ROTATE_90}


def decode(source: Path | bytes, *, name: str = "", how: Decoding | None = None) -> Tensor:
    """The first frame of a file, or of a file's bytes: uint8 (3, H, W), RGB, turned upright by its EXIF tag.

    Transparent images are laid on `how.background`; 16-bit ones are scaled by 1/257; CMYK is read as Pillow
    reads it (Adobe's inverted form included). Raises DataError naming `name` (the path unless given) where the
    file cannot be read as an image, has no pixels, more than `how.max_pixels`, or values without a known range.
    """
    how, name = how or DEFAULT, name or (str(source) if isinstance(source, Path) else "image")
    try:
        plain = plain_jpeg(source, how)
        if plain is not None:
            return plain
        with open_image(source, how) as image:
            return _tensor(_pixels(image, how))
    except DataError as e:
        raise DataError(f"{name}: {e}") from None
    except Exception as e:                                  # decoders raise far more than OSError on damaged files
        raise DataError(f"{name}: {reason(e)}") from None


def open_image(source: Path | bytes, how: Decoding) -> Image.Image:
    """A file's image before its pixels are decoded, its size checked. Raises whatever a decoder raises."""
    Image.init()
    formats = [f for f in FORMATS if f in Image.OPEN]
    if isinstance(source, bytes):
        if not source:
            raise DataError("the file is empty")
        image = Image.open(io.BytesIO(source), formats=formats)
    else:
        found = os.stat(source)                             # opening a FIFO would wait for ever
        if not stat.S_ISREG(found.st_mode):
            raise DataError("this is not a regular file")
        if not found.st_size:
            raise DataError("the file is empty")
        image = Image.open(source, formats=formats)
    try:
        width, height = image.size
        if not width or not height:
            raise DataError(f"the image has no pixels ({width} x {height})")
        if width * height > how.max_pixels:
            raise DataError(f"the image has {width} x {height} = {width * height / 1e6:.1f} million pixels, above the "
                            f"cap of {how.max_pixels / 1e6:g} million (max_pixels)")
        if how.draft:
            image.draft(None, (how.draft, how.draft))
    except BaseException:
        image.close()
        raise
    return image


def kind_of(source: Path | bytes, how: Decoding) -> str:
    """What a readable file is, in a few words: "JPEG RGB", "GIF P, several frames", "JPEG RGB, turned (6)"."""
    try:
        with open_image(source, how) as image:
            frames = int(getattr(image, "n_frames", 1))
            turn = _orientation(image)
            several = ", several frames" if frames > 1 and image.format != "MPO" else ""
            return f"{image.format} {image.mode}{several}" + (f", turned ({turn})" if turn in UPRIGHT else "")
    except Exception as e:
        raise DataError(reason(e)) from None


def _pixels(image: Image.Image, how: Decoding) -> Image.Image:
    """Any mode to RGB, upright."""
    negative = _white_is_zero(image)
    image.load()
    turn = UPRIGHT.get(_orientation(image))
    mode = image.mode
    if mode in ("I", "F") or mode.startswith("I;16"):
        picture = _grey(image, how, negative)
    elif mode in ("RGBA", "LA", "PA", "RGBa") or "transparency" in image.info or _palette_with_alpha(image):
        alpha = image.convert("RGBA")
        picture = Image.new("RGB", alpha.size, how.background)
        picture.paste(alpha, mask=alpha.getchannel("A"))
    elif mode == "LAB":
        raise DataError("the image is in the colour space LAB, which is not read; save it as RGB")
    elif mode == "RGB":
        picture = image                                     # converting it would copy it
    else:
        picture = image.convert("RGB")                      # 1, L, P, CMYK, YCbCr, HSV
    return picture if turn is None else picture.transpose(turn)


def _grey(image: Image.Image, how: Decoding, negative: bool) -> Image.Image:
    """Images of one wide channel: 16-bit integers, 32-bit integers, floats."""
    with np.errstate(invalid="ignore"):                     # what is not a number is looked for below
        values = np.asarray(image).astype(np.float64)
    if not np.isfinite(values).all():
        raise DataError("the image holds values that are not numbers")
    if how.value_range is not None:
        low, high = how.value_range
    elif image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        low, high = 0, 65535                                # so that 255 is reached by 65535: 65535 / 257
    else:
        kind = "32-bit floats" if image.mode == "F" else "32-bit integers"
        raise DataError(f"the image holds {kind} from {values.min():g} to {values.max():g}, and which of them are "
                        "black and white is not known; set value_range")
    shade = (values - low) / (high - low) * 255
    shade = np.clip(np.rint(255 - shade if negative else shade), 0, 255).astype(np.uint8)
    key = image.info.get("transparency")
    picture = Image.fromarray(shade).convert("RGB")
    if isinstance(key, int):
        picture.paste(how.background, mask=Image.fromarray((values == key).astype(np.uint8) * 255))
    return picture


def _tensor(image: Image.Image) -> Tensor:
    pixels = torch.frombuffer(bytearray(image.tobytes("raw", "RGBX")), dtype=torch.uint8)
    return pixels.view(image.height, image.width, 4).permute(2, 0, 1)[:3]       # (3, H, W)


def _orientation(image: Image.Image) -> int:
    """Read after the pixels: a TIFF is turned, and loses its tag, while it loads. A damaged tag turns nothing."""
    try:
        value: Any = image.getexif().get(0x0112, 1)
        return value if isinstance(value, int) else 1
    except Exception:
        return 1


def _palette_with_alpha(image: Image.Image) -> bool:
    return image.mode == "P" and image.palette is not None and image.palette.mode.endswith("A")


def _white_is_zero(image: Image.Image) -> bool:
    """Whether a TIFF counts its greys from white, which Pillow heeds for 8-bit images only."""
    if image.format != "TIFF" or image.mode not in ("I;16", "F"):
        return False
    return bool(getattr(image, "tag_v2", {}).get(262, 1) == 0)


def reason(error: BaseException) -> str:
    """Why a file was not read, in one line."""
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, PermissionError):
        return "this user may not read it"
    if isinstance(error, Image.UnidentifiedImageError):
        return "this is not an image of a known format, or its beginning is damaged"
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return "the image is far too large to be decoded safely"
    if isinstance(error, MemoryError):
        return "decoding it needs more memory than there is"
    text = " ".join(str(error).split())
    return f"it does not decode: {text or type(error).__name__}"[:500]


