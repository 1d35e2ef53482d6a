"""Data sets of stored images: what their readers share."""
import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from vitrail.core.errors import DataError
from vitrail.data.dataset import SKIP_HINT, DatasetBase, Sample, Skipped, splits_of
from vitrail.data.decode import decode
from vitrail.data.settings import Decoding


class ImageDataset(DatasetBase):
    """The base of data sets whose samples are images in files. A reader says where each is stored and what is expected.

    classes: the names of what can be told apart, in the order of their numbers; () where nobody labelled the images.
    """

    classes: tuple[str, ...] = ()
    decoding = Decoding()
    hint = ""                                               # what a DataError of `read` ends with

    def stored(self, index: int) -> bytes | Path:
        """The image file, or what it holds. Raises DataError."""
        raise NotImplementedError

    def image(self, index: int) -> Tensor:
        """uint8 (3, H, W), RGB, upright. Raises DataError naming the key."""
        try:
            return decode(self.stored(index), name=self.key(index), how=self.decoding)
        except DataError as e:
            raise DataError(f"{e}{self.hint}") from None

    def read(self, index: int) -> Sample:
        return Sample(self.key(index), {"image": self.image(index)}, self.targets(index))

    def digest(self, index: int) -> str:
        return content_digest(self.stored(index), self.key(index))


@dataclass(frozen=True)
class Item:
    """One image file: its class by name ("" for none), the split and the group that it belongs to."""

    key: str
    path: Path
    target: str = ""
    split: str = ""
    group: str = ""


class ImageFiles(ImageDataset):
    """Image files, each of a class or of none.

    >>> from pathlib import Path
    >>> ImageFiles("photos", [Item("a.jpg", Path("a.jpg"), "cat")], ("cat", "dog")).targets(0)
    {'class': 0}
    """

    def __init__(self, name: str, items: Sequence[Item], classes: tuple[str, ...] = (), *,
                 decoding: Decoding | None = None, skipped: Iterable[Skipped] = (), strict: bool = True) -> None:
        numbers = {name: number for number, name in enumerate(classes)}
        self.name = name
        self.classes = classes
        self.skipped = tuple(skipped)
        self.decoding = decoding or Decoding()
        self.hint = SKIP_HINT if strict else ""
        self.splits = splits_of([item.split for item in items])
        self.keys = [item.key for item in items]
        self.paths = [os.fspath(item.path) for item in items]
        self.groups = [item.group for item in items] if any(item.group for item in items) else []
        self.numbers = [numbers[item.target] for item in items] if classes else []

    def __len__(self) -> int:
        return len(self.keys)

    def key(self, index: int) -> str:
        return self.keys[index]

    def stored(self, index: int) -> Path:
        return Path(self.paths[index])

    def targets(self, index: int) -> dict[str, Any]:
        return {"class": self.numbers[index]} if self.numbers else {}

    def stratum(self, index: int) -> str:
        return self.classes[self.numbers[index]] if self.numbers else ""

    def group(self, index: int) -> str:
        return self.groups[index] if self.groups else ""


def content_digest(stored: bytes | Path, key: str) -> str:
    """sha256 of a stored file. Raises DataError naming the key."""
    if isinstance(stored, bytes):
        return hashlib.sha256(stored).hexdigest()
    try:
        with open(stored, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as e:
        raise DataError(f"{key}: the file cannot be read: {e.strerror}") from None
