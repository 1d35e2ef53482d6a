"""A sample sheet: a few images of every class with its name, as one PNG. Made with Pillow alone."""
import contextlib
import os
from pathlib import Path

from PIL import Image, ImageDraw, PngImagePlugin
from torch import Tensor

from vitrail.core.errors import DataError, SettingsError
from vitrail.core.seeds import derive_seed
from vitrail.data.fonts import fitted, width, write
from vitrail.data.dataset import printable
from vitrail.data.images import ImageDataset
from vitrail.data.settings import check_number

MARK = "vitrail data check"                                 # in the PNG: only a sheet is ever written over
CELL, GAP, NAMES = 96, 6, 220                               # pixels
PAPER, INK, QUIET, ALARM = (255, 255, 255), (30, 30, 30), (120, 120, 120), (190, 40, 40)


def sheet(dataset: ImageDataset, *, per_class: int = 8, classes: int = 40, seed: int = 0) -> Image.Image:
    """Rows of classes (the first `classes` of them), each with up to `per_class` images drawn by the seed.

    An image that cannot be read shows as a crossed cell, so that the sheet tells the truth about the data.
    """
    check_number("per_class", per_class, 1, 64, whole=True)
    check_number("classes", classes, 1, 400, whole=True)
    members: dict[str, list[int]] = {}
    for index in range(len(dataset)):
        members.setdefault(dataset.stratum(index), []).append(index)
    names = dataset.classes or ("",)                         # where nobody named classes, one row
    shown = range(min(classes, len(names)))
    step = CELL + GAP
    head, foot = 34, 24 if len(names) > len(shown) else 0
    page = Image.new("RGB", (NAMES + per_class * step + GAP, head + len(shown) * step + foot + GAP), PAPER)
    title = f"{printable(dataset.name)}: {len(dataset)} images, {len(dataset.classes)} classes"
    write(page, (GAP, 9), fitted(title, 14, page.width - 2 * GAP), 14, INK)
    for row in shown:
        top = head + row * step
        indices = members.get(names[row], [])
        name = printable(names[row]) or "without a class"
        for line, text in enumerate(_lines(name, NAMES - 3 * GAP)):
            write(page, (GAP, top + 4 + 18 * line), text, 13, INK)
        write(page, (GAP, top + CELL - 22), f"class {row}: {len(indices)} images", 11, QUIET)
        drawn = sorted(indices, key=lambda i: derive_seed(seed, "sheet", dataset.key(i)))[:per_class]
        for column, index in enumerate(sorted(drawn)):
            _cell(page, (NAMES + column * step, top), dataset, index)
    if foot:
        rest = f"and {len(names) - len(shown)} more classes"
        write(page, (GAP, page.height - foot), rest, 12, QUIET)
    return page


def write_sheet(image: Image.Image, path: Path) -> Path:
    """Write a sheet as PNG, aside and then renamed. SettingsError where another file would be lost or it cannot be."""
    if path.suffix.lower() != ".png":
        raise SettingsError(f"the sample sheet is a PNG, and {printable(str(path))} does not end in .png")
    if path.exists() and not _is_sheet(path):
        raise SettingsError(f"{printable(str(path))} exists and is not a sample sheet; give another name")
    text = PngImagePlugin.PngInfo()
    text.add_text("Software", MARK)
    aside = path.with_name(f".{path.stem[:100]}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(aside, "PNG", pnginfo=text)
        os.replace(aside, path)
    except OSError as e:
        with contextlib.suppress(OSError):
            aside.unlink()
        raise SettingsError(f"{printable(str(path))}: the sample sheet cannot be written: {e.strerror or e}") from None
    return path


def _is_sheet(path: Path) -> bool:
    try:
        with Image.open(path, formats=["PNG"]) as image:
            return image.info.get("Software") == MARK
    except Exception:
        return False


def _lines(name: str, room: float) -> list[str]:
    """A name on up to three lines, shortened in its middle where even these are too few."""
    lines: list[str] = []
    rest = name[:2000]
    while rest and len(lines) < 2 and width(rest[:80], 13) > room:
        keep = 1
        while keep < len(rest) and width(rest[:keep + 1], 13) <= room:
            keep += 1
        space = max(rest.rfind(mark, 0, keep) for mark in " _-/") + 1
        cut = space if space > keep // 2 else keep
        lines.append(rest[:cut])
        rest = rest[cut:]
    return [*lines, fitted(rest, 13, room)] if rest else lines


def _cell(page: Image.Image, at: tuple[int, int], dataset: ImageDataset, index: int) -> None:
    draw = ImageDraw.Draw(page)
    x, y = at
    try:
        picture = _thumbnail(dataset.image(index))
    except DataError:
        draw.rectangle((x, y, x + CELL - 1, y + CELL - 1), outline=ALARM)
        draw.line((x, y, x + CELL - 1, y + CELL - 1), fill=ALARM)
        draw.line((x, y + CELL - 1, x + CELL - 1, y), fill=ALARM)
        write(page, (x + 8, y + CELL // 2 - 8), "unreadable", 11, ALARM)
        return
    draw.rectangle((x, y, x + CELL - 1, y + CELL - 1), fill=(238, 238, 238))
    page.paste(picture, (x + (CELL - picture.width) // 2, y + (CELL - picture.height) // 2))


def _thumbnail(image: Tensor) -> Image.Image:
    """The whole image within a cell; small ones are enlarged by whole pixels."""
    picture = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
    scale = CELL / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.NEAREST if scale > 2 else Image.Resampling.LANCZOS)
