"""What every data set looks like from outside: samples by index, whatever they hold."""
import hashlib
import os
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar, runtime_checkable

from vitrail.core.errors import DataError

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


@dataclass
class Sample:
    """One sample: what a model is given, and what is expected of it, each by name.

    inputs:  {"image": uint8 (3, H, W)}, {"source": [4, 8, 2]}, ...
    targets: {"class": 3}, {"mask": tv_tensors.Mask}, ...; empty where nobody labelled it. What is a
             torchvision tv_tensor is moved together with the image by torchvision's v2 transforms.
    """

    key: str
    inputs: dict[str, Any]
    targets: dict[str, Any] = field(default_factory=dict)


@runtime_checkable
class Dataset(Protocol):
    """Samples by index, in an order that depends on nothing but what is there."""

    @property
    def name(self) -> str: ...                              # as the user gave it
    @property
    def skipped(self) -> tuple[Skipped, ...]: ...
    @property
    def splits(self) -> Mapping[str, tuple[int, ...]]: ...  # the data set's own: {"train": indices, "val": ...}
    def __len__(self) -> int: ...

    def key(self, index: int) -> str:
        """The sample as the user knows it, and stable: the path relative to the root, for instance."""

    def read(self, index: int) -> Sample:
        """The sample with its inputs. Raises DataError, naming its key."""

    def targets(self, index: int) -> dict[str, Any]:
        """What is expected of the sample. Costs little: no input is read."""

    def stratum(self, index: int) -> str:
        """What a split keeps in proportion, such as the class; "" where there is nothing of the kind."""

    def group(self, index: int) -> str:
        """What a split keeps together: a patient, a video, an identity; "" for a sample that stands alone."""

    def digest(self, index: int) -> str:
        """sha256 of the sample's stored contents."""

    def fingerprint(self) -> str:
        """sha256 over keys, strata and contents."""


class DatasetBase:
    """What a data set says where it says nothing else: no splits of its own, nothing expected of a sample, nothing that
    a split keeps in proportion or together."""

    name = ""
    skipped: tuple[Skipped, ...] = ()
    splits: Mapping[str, tuple[int, ...]] = {}

    def __len__(self) -> int:
        raise NotImplementedError

    def key(self, index: int) -> str:
        raise NotImplementedError

    def targets(self, index: int) -> dict[str, Any]:
        return {}

    def stratum(self, index: int) -> str:
        return ""

    def group(self, index: int) -> str:
        return ""

    def fingerprint(self) -> str:
        return fingerprint(self)


class Subset:
    """Some samples of a data set, in the order given. What else the data set has (`classes`, ...) is read from it."""

    def __init__(self, dataset: Any, indices: Sequence[int]) -> None:
        self.dataset = dataset
        self.indices = tuple(indices)
        self.name = dataset.name
        self.skipped = dataset.skipped
        place = {index: position for position, index in enumerate(self.indices)}
        kept = {split: tuple(place[i] for i in members if i in place) for split, members in dataset.splits.items()}
        self.splits = {split: members for split, members in kept.items() if members}

    def __len__(self) -> int:
        return len(self.indices)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "dataset":      # while it is unpickled there is none
            raise AttributeError(name)
        value = getattr(self.dataset, name)
        if callable(value):                                 # it might take an index, which means another sample there
            raise AttributeError(f"a Subset has no {name!r}")
        return value

    def key(self, index: int) -> str:
        return str(self.dataset.key(self.indices[index]))

    def read(self, index: int) -> Sample:
        sample: Sample = self.dataset.read(self.indices[index])
        return sample

    def targets(self, index: int) -> dict[str, Any]:
        targets: dict[str, Any] = self.dataset.targets(self.indices[index])
        return targets

    def stratum(self, index: int) -> str:
        return str(self.dataset.stratum(self.indices[index]))

    def group(self, index: int) -> str:
        return str(self.dataset.group(self.indices[index]))

    def stored(self, index: int) -> Any:
        return self.dataset.stored(self.indices[index])

    def image(self, index: int) -> Any:
        return self.dataset.image(self.indices[index])

    def digest(self, index: int) -> str:
        return str(self.dataset.digest(self.indices[index]))

    def fingerprint(self) -> str:
        return fingerprint(self)


def fingerprint(dataset: Any) -> str:
    """sha256 over every sample's key, stratum and stored contents: neither paths, dates nor settings count."""
    classes = getattr(dataset, "classes", ())
    total = hashlib.sha256("\0".join(classes).encode("utf-8", "backslashreplace"))
    for index, digest in enumerate(in_threads(dataset.digest, len(dataset))):
        line = f"\n{dataset.key(index)}\0{dataset.stratum(index)}\0{digest}"
        total.update(line.encode("utf-8", "backslashreplace"))
    return total.hexdigest()


def splits_of(names: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Indices by the name of their split, in the order of first appearance; nothing for the unnamed."""
    members: dict[str, list[int]] = {}
    for index, split in enumerate(names):
        if split:
            members.setdefault(split, []).append(index)
    return {split: tuple(indices) for split, indices in members.items()}


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


def settle(problems: list[Skipped], on_error: str, where: str) -> None:
    """Raises DataError for the first problem unless bad files are to be skipped."""
    if problems and on_error == "stop":
        more = f" (and {len(problems) - 1} more like problems)" if len(problems) > 1 else ""
        raise DataError(f"{where}: {problems[0].key}: {problems[0].why}{more}{SKIP_HINT}")
