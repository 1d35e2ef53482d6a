"""One door to every data set: what the user wrote, read as the kind of data it names."""
import os
from pathlib import Path

from vitrail.core.errors import DataError, SettingsError, did_you_mean
from vitrail.data.digits import Digits
from vitrail.data.folder import PARTS, open_folder
from vitrail.data.settings import Decoding, Opening
from vitrail.data.source import Source, Subset, printable
from vitrail.data.table import SUFFIX, open_table

BUNDLED = ("digits",)


def open_source(text: str | Path, *, on_error: str = "stop", classes: tuple[str, ...] | None = None,
                part: str | None = None, decoding: Decoding | None = None, class_depth: int = 0,
                threads: int = 0) -> Source:
    """"digits", a folder of class folders, a table.csv, "hf:<name or folder>" or "wds:<tar shards>".

    `part` ("train", "val" or "test") keeps that part of a data set that is divided already. `classes` are the
    labels to use, in order; a class among the data that they lack is an error. Raises DataError or SettingsError.
    """
    opening = Opening(on_error=on_error, classes=classes, class_depth=class_depth, threads=threads,
                      decoding=decoding or Decoding())
    source = open_with(str(text), opening)
    return source if part is None else take_part(source, part)


def take_part(source: Source, part: str) -> Source:
    """One part of a data set that is divided. Raises SettingsError or DataError naming the parts there are."""
    wanted = PARTS.get(part.casefold())
    if wanted is None:
        raise SettingsError(f"part is {part!r}, and must be train, val or test.{did_you_mean(part, PARTS)}")
    if not source.parts.get(wanted):
        there = f"its parts are {', '.join(source.parts)}" if source.parts else "it is not divided into parts"
        raise DataError(f"{source.name}: there is no {wanted} part; {there}")
    return Subset(source, source.parts[wanted])


def open_with(text: str, opening: Opening) -> Source:
    """open_source with its settings in one object."""
    if text == "digits":
        return Digits(opening)
    if text.startswith("hf:"):
        from vitrail.data.hub_datasets import open_hub
        return open_hub(text.removeprefix("hf:"), opening, name=text)
    if text.startswith("wds:"):
        from vitrail.data.shards import open_shards
        return open_shards(text.removeprefix("wds:"), opening, name=text)
    if not text or "\0" in text:
        raise DataError("the data set has no name; give a folder, a CSV, 'digits', 'hf:...' or 'wds:...'")
    path = Path(os.path.expanduser(text))                  # unlike Path.expanduser, it never raises
    try:
        is_folder, there = path.is_dir(), path.exists()
    except OSError as e:
        raise DataError(f"{printable(text)}: {e.strerror}") from None
    if is_folder:
        return open_folder(path, opening)
    suffix = path.suffix.lower()
    if suffix in SUFFIX:
        return open_table(path, opening)
    if suffix == ".tar":
        return open_with("wds:" + text, opening)
    if suffix in (".parquet", ".arrow"):
        return open_with("hf:" + text, opening)
    if there:
        raise DataError(f"{printable(text)}: a data set is a folder of class folders, a .csv, a .tar of webdataset or "
                        "a .parquet, and this is none of them")
    raise DataError(f"{printable(text)}: there is no such folder or file.{did_you_mean(text, BUNDLED)} A data set of the "
                    "Hugging Face hub is written 'hf:owner/name'")
