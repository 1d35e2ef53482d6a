"""What `vitrail data check` found, as values."""
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from vitrail.data.dataset import Skipped


@dataclass(frozen=True)
class ClassCount:
    """A class: how many images it has, how many of them can be read, and those by split."""

    name: str
    images: int
    readable: int
    splits: Mapping[str, int]


@dataclass(frozen=True)
class Duplicate:
    """Images that are alike in every pixel."""

    keys: tuple[str, ...]
    classes: tuple[str, ...]
    splits: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Heights and widths in pixels, upright."""

    smallest: tuple[int, int]
    median: tuple[int, int]
    largest: tuple[int, int]
    different: int                                          # sizes that occur
    small: int                                              # images with a side below two patches
    blank: int                                              # images of one colour


@dataclass(frozen=True, kw_only=True)
class Report:
    """`faults` are what a run would stop at, `warnings` what its owner should know of."""

    name: str
    images: int = 0
    classes: tuple[ClassCount, ...] = ()
    splits: Mapping[str, int] = field(default_factory=dict)
    kinds: Mapping[str, int] = field(default_factory=dict)  # "JPEG RGB": how many
    sizes: Sizes | None = None
    broken: tuple[Skipped, ...] = ()
    skipped: tuple[Skipped, ...] = ()                       # not part of the data set: hidden names, other endings, ...
    duplicates: tuple[Duplicate, ...] = ()
    faults: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        return not self.faults

    def to_json(self) -> dict[str, Any]:
        return {"ok": self.ok, **asdict(self)}
