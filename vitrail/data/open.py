"""One door to every data set of images: what the user wrote, read as the kind of data it names."""
import os
from pathlib import Path
from typing import Any, cast

from vitrail.core.errors import DataError, SettingsError, did_you_mean
from vitrail.data.dataset import Subset, printable
from vitrail.data.formats.digits import Digits
from vitrail.data.formats.folder import SPLITS, open_folder
from vitrail.data.formats.table import SUFFIX, open_table
from vitrail.data.settings import Decoding, OnError, Opening

BUNDLED = ("digits",)


def open_dataset(text: str | Path, *, on_error: str = "stop", classes: tuple[str, ...] | None = None,
                 split: str | None = None, decoding: Decoding | None = None, class_depth: int = 0,
                 threads: int = 0) -> Any:
    """"digits", a folder of class folders, a table.csv, "hf:<name or folder>", "wds:<tar shards>", or, where nobody
    named any class, "images:<folder>".

    `split` ("train", "val" or "test") keeps that split of a data set that is divided already. `classes` are the
    classes to use, in order; a class among the data that they lack is an error. Raises DataError or SettingsError.

    >>> len(open_dataset("digits"))
    1797
    """
    opening = Opening(on_error=cast(OnError, on_error), classes=classes, class_depth=class_depth, threads=threads,
                      decoding=decoding or Decoding())
    dataset = open_with(str(text), opening)
    return dataset if split is None else take_split(dataset, split)


def take_split(dataset: Any, split: str) -> Subset:
    """One split of a data set that is divided. Raises SettingsError or DataError naming the splits there are."""
    wanted = SPLITS.get(split.casefold())
    if wanted is None:
        raise SettingsError(f"split is {split!r}, and must be train, val or test.{did_you_mean(split, SPLITS)}")
    if not dataset.splits.get(wanted):
        known = f"its splits are {', '.join(dataset.splits)}" if dataset.splits else "it is not divided into splits"
        raise DataError(f"{dataset.name}: there is no {wanted} split; {known}")
    return Subset(dataset, dataset.splits[wanted])


def open_with(text: str, opening: Opening) -> Any:
    """open_dataset with its settings in one object."""
    if text == "digits":
        return Digits(opening)
    if text.startswith("hf:"):
        from vitrail.data.formats.hub import open_hub
        return open_hub(text.removeprefix("hf:"), opening, name=text)
    if text.startswith("wds:"):
        from vitrail.data.formats.shards import open_shards
        return open_shards(text.removeprefix("wds:"), opening, name=text)
    if text.startswith("images:"):
        from vitrail.data.formats.images import open_images
        return open_images(Path(os.path.expanduser(text.removeprefix("images:"))), opening, name=text)
    if not text or "\0" in text:
        raise DataError("the data set has no name; give a folder, a CSV, 'digits', 'hf:...' or 'wds:...'")
    path = Path(os.path.expanduser(text))                  # unlike Path.expanduser, it never raises
    try:
        is_folder, exists = path.is_dir(), path.exists()
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
    if exists:
        raise DataError(f"{printable(text)}: a data set is a folder of class folders, a .csv, a .tar of webdataset or "
                        "a .parquet, and this is none of them")
    raise DataError(f"{printable(text)}: there is no such folder or file.{did_you_mean(text, BUNDLED)} A data set of "
                    "the Hugging Face hub is written 'hf:owner/name'")
