"""Texts as numbers and back: units of a text (characters or words), and the seven marks that are no text."""
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vitrail.core.errors import CheckpointError, DataError, did_you_mean

MARKS = ("[PAD]", "[START]", "[END]", "[UNKNOWN]", "[MASK]", "[CLASS]", "[SEPARATOR]")
PAD, START, END, UNKNOWN, MASK, CLASS, SEPARATOR = range(len(MARKS))
UNITS = ("characters", "words")
_WORD = re.compile(r"\w+(?:['\u2019-]\w+)*|[^\w\s]")
_TIGHT = re.compile(r" (?=[.,;:!?)\]}\u2019\u201d])|(?<=[(\[{\u201c]) ")


@dataclass(frozen=True)
class Vocabulary:
    """The units that a model knows. Their numbers follow those of the marks.

    Of words, what stands between them is not kept: see `joined`.
    """

    kind: str                               # one of UNITS
    units: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.kind not in UNITS:
            raise DataError(f"a vocabulary is of {' or '.join(UNITS)}, not "
                            f"{self.kind!r}.{did_you_mean(self.kind, UNITS)}")
        numbers = {unit: number for number, unit in enumerate(self.units, len(MARKS))}
        if len(numbers) != len(self.units):
            raise DataError("a vocabulary names a unit twice")
        object.__setattr__(self, "_numbers", numbers)

    @classmethod
    def of(cls, texts: Iterable[str], kind: str, *, most: int = 30_000) -> "Vocabulary":
        """The `most` frequent units of the texts, sorted: which text came first changes nothing."""
        counts = Counter(unit for text in texts for unit in split(text, kind))
        ranked = sorted(counts, key=lambda unit: (-counts[unit], unit))[:most]
        return cls(kind, tuple(sorted(ranked)))

    def __len__(self) -> int:
        return len(MARKS) + len(self.units)

    def numbers(self, text: str) -> list[int]:
        """The text's units as numbers; one that is not known is UNKNOWN."""
        known: Mapping[str, int] = self.__dict__["_numbers"]
        return [known.get(unit, UNKNOWN) for unit in split(text, self.kind)]

    def text(self, numbers: Iterable[int]) -> str:
        """The numbers as a text. Marks stand in it by their names."""
        return self.joined(self.unit(number) for number in numbers)

    def joined(self, parts: Iterable[str]) -> str:
        """Units or longer parts as one text: words with a space between them, and none before a comma."""
        return "".join(parts) if self.kind == "characters" else _TIGHT.sub("", " ".join(parts))

    def unit(self, number: int) -> str:
        return MARKS[number] if number < len(MARKS) else self.units[number - len(MARKS)]

    def unknown(self, text: str) -> list[str]:
        """The units of a text that the model never saw, each once."""
        known = self.__dict__["_numbers"]
        return list(dict.fromkeys(unit for unit in split(text, self.kind) if unit not in known))

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "units": list(self.units)}

    @classmethod
    def from_json(cls, data: Any) -> "Vocabulary":
        """Raises CheckpointError where this is none."""
        units: Any = data.get("units") if isinstance(data, dict) else None
        if not isinstance(units, list) or not all(isinstance(unit, str) for unit in units):
            raise CheckpointError("the model's vocabulary is missing or damaged")
        try:
            return cls(str(data.get("kind")), tuple(units))
        except DataError as e:
            raise CheckpointError(f"the model's vocabulary is damaged: {e}") from None


def split(text: str, kind: str) -> Sequence[str]:
    """The units of a text: its characters; or its words and punctuation marks."""
    return text if kind == "characters" else _WORD.findall(text)
