"""Text of any script on a picture, with Pillow alone."""
import importlib.util
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
SYSTEM = (                                                  # wide in scripts, where a system has them
    "/usr/share/fonts/opentype/noto/NotoSansCJK-Regular.ttc", "/usr/share/fonts/noto-cjk/NotoSansCJK-Regular.ttc",
    "/usr/share/fonts/truetype/wqy/wqy-zenhei.ttc", "/usr/share/fonts/truetype/noto/NotoSansDevanagari-Regular.ttf",
    "/System/Library/Fonts/Supplemental/Arial Unicode.ttf", "/System/Library/Fonts/PingFang.ttc",
    "C:/Windows/Fonts/msyh.ttc", "C:/Windows/Fonts/seguisym.ttf")
ELLIPSIS = "\u2026"
LONGEST = 400                                               # characters of a name that are looked at


@lru_cache(maxsize=8)
def fonts(size: int) -> tuple[Font, ...]:
    """Fonts to try for a character, in order: DejaVu Sans (it comes with matplotlib), the system's, Pillow's own."""
    spec = importlib.util.find_spec("matplotlib")           # found, not imported
    paths = [Path(p) / "mpl-data/fonts/ttf/DejaVuSans.ttf" for p in (spec.submodule_search_locations or [])] \
        if spec else []
    found: list[Font] = []
    for path in [*paths, *map(Path, SYSTEM)]:
        try:
            if path.is_file():
                found.append(ImageFont.truetype(str(path), size))
        except OSError:                                     # a damaged font, or Pillow without FreeType
            continue
    if not found:
        try:
            found.append(ImageFont.load_default(size))
        except (TypeError, OSError, ImportError):           # Pillow 10.0: one bitmap font, one size
            found.append(ImageFont.load_default())
    return tuple(found)


def runs(text: str, size: int) -> Iterator[tuple[Font, str]]:
    """Text cut where the font must change; a character that no font has becomes its number, such as \\u732b."""
    current, piece = fonts(size)[0], ""
    for char in text:
        font = next((f for f in fonts(size) if _has(f, char)), None)
        shown = char if font is not None else char.encode("ascii", "backslashreplace").decode()
        font = font or fonts(size)[0]
        if font is not current and piece:
            yield current, piece
            piece = ""
        current, piece = font, piece + shown
    if piece:
        yield current, piece


def width(text: str, size: int) -> float:
    return sum(font.getlength(piece) for font, piece in runs(text, size))


def fitted(text: str, size: int, room: float) -> str:
    """The text, its middle left out where it is wider than `room` pixels: both ends tell names apart."""
    if len(text) > LONGEST:
        text = text[:LONGEST // 2] + ELLIPSIS + text[-LONGEST // 2:]
    if width(text, size) <= room:
        return text
    low, high = 0, len(text)                                # characters kept: at most this many fit
    while low < high:
        keep = (low + high + 1) // 2
        low, high = (keep, high) if width(_short(text, keep), size) <= room else (low, keep - 1)
    return _short(text, low)


def write(image: Image.Image, at: tuple[float, float], text: str, size: int, colour: tuple[int, int, int]) -> None:
    """Text with its upper left corner at (x, y) pixels."""
    draw, (x, y) = ImageDraw.Draw(image), at
    for font, piece in runs(text, size):
        draw.text((x, y), piece, font=font, fill=colour)
        x += font.getlength(piece)


def _short(text: str, keep: int) -> str:
    head = (keep + 1) // 2
    return text[:head] + ELLIPSIS + (text[len(text) - (keep - head):] if keep > head else "")


@lru_cache(maxsize=4096)
def _has(font: Font, char: str) -> bool:
    """Whether a font draws a character as something other than its box for unknown ones."""
    if char.isspace():
        return char == " "
    try:
        plain = font
        if isinstance(font, ImageFont.FreeTypeFont):        # without shaping, which would put a mark on a circle
            plain = font.font_variant(layout_engine=ImageFont.Layout.BASIC)
        return bytes(plain.getmask(char)) != bytes(plain.getmask("\U0010fffe"))
    except (UnicodeError, OSError, ValueError):
        return False
