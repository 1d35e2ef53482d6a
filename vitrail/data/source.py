"""What every data set looks like from outside, and the parts that the readers share."""
import hashlib
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar, runtime_checkable

from torch import Tensor

from vitrail.core.errors import DataError, did_you_mean
from vitrail.data.decode import decode
from vitrail.data.settings import Decoding, Opening

Out = TypeVar("Out")
TURNING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
SKIP_HINT = "; --on-error skip leaves such files out and lists them"


@dataclass(frozen=True)
class Skipped:
    """Something that is not part of the data set: which, why, and how many where one entry stands for several."""

    key: str
    why: str
    count: int = 1
    error: bool = True                                      # whether on_error="stop" stops at it


@runtime_checkable
class Source(Protocol):
    """Labelled images by index, in an order that depends on nothing but what is there."""

    @property
    def name(self) -> str: ...                              # as the user gave it
    @property
    def classes(self) -> tuple[str, ...]: ...
    @property
    def skipped(self) -> tuple[Skipped, ...]: ...
    @property
    def parts(self) -> Mapping[str, tuple[int, ...]]: ...   # the data set's own split: {"train": indices, "val": ...}
    def __len__(self) -> int: ...
    def key(self, index: int) -> str: ...                   # stable: the path relative to the root, for instance
    def label(self, index: int) -> int: ...
    def stored(self, index: int) -> bytes | Path: ...       # the image file, or what it holds; DataError
    def read(self, index: int) -> Tensor: ...               # uint8 (3, H, W), RGB, upright; DataError names the key
    def digest(self, index: int) -> str: ...                # sha256 of the sample's stored contents
    def fingerprint(self) -> str: ...                       # sha256 over keys, class names and contents


@dataclass(frozen=True)
class Item:
    """One image file of a data set, before its class has a number."""

    key: str
    path: Path
    label: str
    part: str = ""


class Files:
    """A data set of image files."""

    def __init__(self, name: str, items: Sequence[Item], classes: tuple[str, ...], *,
                 decoding: Decoding, skipped: Iterable[Skipped] = (), strict: bool = True) -> None:
        numbers = {c: i for i, c in enumerate(classes)}
        self.name, self.classes, self.skipped = name, classes, tuple(skipped)
        self.parts = parts_of([item.part for item in items])
        self.decoding, self.hint = decoding, SKIP_HINT if strict else ""
        self.keys = [item.key for item in items]
        self.paths = [os.fspath(item.path) for item in items]
        self.labels = [numbers[item.label] for item in items]

    def __len__(self) -> int:
        return len(self.keys)

    def key(self, index: int) -> str:
        return self.keys[index]

    def label(self, index: int) -> int:
        return self.labels[index]

    def stored(self, index: int) -> Path:
        return Path(self.paths[index])

    def read(self, index: int) -> Tensor:
        return read(self, index, self.decoding, self.hint)

    def digest(self, index: int) -> str:
        return digest(self, index)

    def fingerprint(self) -> str:
        return fingerprint(self)


class Subset:
    """Some samples of a source, in the order given, under the source's classes."""

    def __init__(self, source: Source, indices: Sequence[int]) -> None:
        self.source, self.indices = source, tuple(indices)
        self.name, self.classes, self.skipped = source.name, source.classes, source.skipped
        place = {whole: here for here, whole in enumerate(self.indices)}
        found = {part: tuple(place[i] for i in members if i in place) for part, members in source.parts.items()}
        self.parts = {part: members for part, members in found.items() if members}

    def __len__(self) -> int:
        return len(self.indices)

    def key(self, index: int) -> str:
        return self.source.key(self.indices[index])

    def label(self, index: int) -> int:
        return self.source.label(self.indices[index])

    def stored(self, index: int) -> bytes | Path:
        return self.source.stored(self.indices[index])

    def read(self, index: int) -> Tensor:
        return self.source.read(self.indices[index])

    def digest(self, index: int) -> str:
        return self.source.digest(self.indices[index])

    def fingerprint(self) -> str:
        return fingerprint(self)


def read(source: Source, index: int, how: Decoding, hint: str) -> Tensor:
    """The picture in a stored file. Its DataError ends with the hint."""
    try:
        return decode(source.stored(index), name=source.key(index), how=how)
    except DataError as e:
        raise DataError(f"{e}{hint}") from None


def digest(source: Source, index: int) -> str:
    """sha256 of a stored file."""
    stored = source.stored(index)
    if isinstance(stored, bytes):
        return hashlib.sha256(stored).hexdigest()
    try:
        with open(stored, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as e:
        raise DataError(f"{source.key(index)}: the file cannot be read: {e.strerror}") from None


def fingerprint(source: Source) -> str:
    """sha256 over every sample's key, class name and stored contents: neither paths, dates nor settings count."""
    total = hashlib.sha256("\0".join(source.classes).encode("utf-8", "backslashreplace"))
    for index, digest in enumerate(in_threads(source.digest, len(source))):
        line = f"\n{source.key(index)}\0{source.classes[source.label(index)]}\0{digest}"
        total.update(line.encode("utf-8", "backslashreplace"))
    return total.hexdigest()


def parts_of(names: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Indices by the name of their part, in the order of first appearance; nothing for the unnamed."""
    found: dict[str, list[int]] = {}
    for index, part in enumerate(names):
        if part:
            found.setdefault(part, []).append(index)
    return {part: tuple(members) for part, members in found.items()}


def in_threads(do: Callable[[int], Out], count: int, threads: int = 0) -> Iterator[Out]:
    """do(0), do(1), ... in order, worked out in threads; 0 threads: as many as processors."""
    block = 2048                                            # bounds what waits, however large the data set
    with ThreadPoolExecutor(threads or min(32, os.cpu_count() or 1)) as pool:
        for start in range(0, count, block):
            yield from pool.map(do, range(start, min(start + block, count)))


def natural(text: str) -> tuple[object, ...]:
    """A sorting key under which 2 comes before 10, upper and lower case side by side."""
    pieces = re.split(r"([0-9]+)", text.casefold())
    folded = tuple((len(p.lstrip("0")), p.lstrip("0")) if i % 2 else p for i, p in enumerate(pieces))
    return folded, text


def printable(text: str | bytes) -> str:
    """Text that any terminal, JSON file or page can hold: undecodable bytes, control characters and those that
    turn the direction of writing are escaped."""
    text = os.fsdecode(text).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(f"\\u{ord(c):04x}" if unicodedata.category(c) in ("Cc", "Zl", "Zp") or c in TURNING else c
                   for c in text)


def class_order(found: Iterable[str], opening: Opening, where: str) -> tuple[str, ...]:
    """The classes of a data set in the order of their numbers: natural order, or the order the caller asks for.

    Raises DataError where two names differ only in case or composition, or are not among those asked for.
    """
    names = sorted(set(found), key=natural)
    if not names:
        raise DataError(f"{where}: there are no labelled images here")
    seen: dict[str, str] = {}
    for name in names:
        twin = seen.setdefault(unicodedata.normalize("NFC", name.casefold()), name)
        if twin != name:
            raise DataError(f"{where}: the classes {twin!r} and {name!r} differ only in upper and lower case; "
                            "on some machines they are one folder. Rename or merge them")
    if opening.classes is None:
        return tuple(names)
    for name in names:
        if name not in opening.classes:
            shown = ", ".join(map(repr, opening.classes[:5])) + (", ..." if len(opening.classes) > 5 else "")
            raise DataError(f"{where}: the class {name!r} is not one of the {len(opening.classes)} classes of the "
                            f"model ({shown}).{did_you_mean(name, opening.classes)}")
    return opening.classes


def settle(problems: list[Skipped], opening: Opening, where: str) -> None:
    """Raises DataError for the first problem unless bad files are to be skipped."""
    if problems and opening.on_error == "stop":
        more = f" (and {len(problems) - 1} more like problems)" if len(problems) > 1 else ""
        raise DataError(f"{where}: {problems[0].key}: {problems[0].why}{more}{SKIP_HINT}")
