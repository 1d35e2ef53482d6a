"""What the verbs know of results, whichever task they are of: they print, write and draw themselves."""
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from vitrail.core.score import Score


@dataclass(frozen=True)
class Excluded:
    """A sample that was left out, and why."""

    key: str
    why: str


@dataclass(frozen=True, kw_only=True)
class Tile:
    """A figure at the head of a report: its name, its value, and a few words below it."""

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows under headings; `numbers` names the columns that stand to the right."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numbers: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A drawing: the text of an SVG element, or the bytes of a PNG."""

    svg: str = ""
    png: bytes = b""
    about: str = ""                         # for those who cannot see it


@dataclass(frozen=True, kw_only=True)
class Card:
    """Pictures side by side over a line of text. The parts of the text in `strong` are printed bold."""

    pictures: tuple[Figure, ...]
    text: str
    strong: tuple[str, ...] = ()
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of a report: a heading, a note, and what stands below it."""

    title: str = ""
    note: str = ""
    parts: tuple[Table | Figure | Card, ...] = ()


class Evaluation(Protocol):
    """What judging a model on a data set found."""

    @property
    def scores(self) -> Mapping[str, Score]: ...
    @property
    def samples(self) -> int: ...
    @property
    def excluded(self) -> tuple[Excluded, ...]: ...
    @property
    def about(self) -> str: ...             # `vit_s16 on photos: 312 images of 5 classes`

    def to_json(self) -> dict[str, Any]:
        """Plain values that json.dumps takes: no tensors, no NaN."""

    def tiles(self) -> Iterator[Tile]:
        """What stands at the head of the report."""

    def sections(self, model: Any, dataset: Any) -> Iterator[Section]:
        """The parts of the report that are the task's own."""


class Prediction(Protocol):
    """One answer. Where the input could not be read, `error` says why and there is no answer."""

    @property
    def key(self) -> str: ...
    @property
    def error(self) -> str | None: ...

    def to_json(self) -> dict[str, Any]: ...

    def rows(self) -> list[dict[str, str]]:
        """Lines of a table, by column: the same columns for all predictions of one call, where there is an answer."""

    def draw(self, image: Any) -> Any:
        """The answer on the picture, a PIL image."""
