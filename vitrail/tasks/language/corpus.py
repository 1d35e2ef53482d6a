"""Where texts come from: the toy language, the page that is shipped, and the user's own files."""
import hashlib
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import groupby
from pathlib import Path

from vitrail.core.errors import DataError, did_you_mean
from vitrail.core.files import absent
from vitrail.core.seeds import derive_seed
from vitrail.data.dataset import Skipped, printable
from vitrail.tasks.language import toy

LARGEST = 1 << 28               # bytes of a file of text
BLOCKS = 20                     # into which a text is cut before a share of them is held out


@dataclass(frozen=True)
class Text:
    """A running text, or what is left of one: its pieces, in order. What stood between two is missing."""

    name: str
    pieces: tuple[str, ...]

    def fingerprint(self) -> str:
        return _sha256(self.pieces)


@dataclass(frozen=True)
class Pairs:
    """Sentences with their translations. keys: how the user knows them ("line 12"); skipped: what was left out."""

    name: str
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    keys: tuple[str, ...]
    skipped: tuple[Skipped, ...] = ()

    def __len__(self) -> int:
        return len(self.keys)

    def subset(self, indices: Sequence[int]) -> "Pairs":
        sources, targets, keys = (tuple(column[i] for i in indices) for column in
                                  (self.sources, self.targets, self.keys))
        return Pairs(self.name, sources, targets, keys, self.skipped)

    def fingerprint(self) -> str:
        return _sha256([part for pair in zip(self.sources, self.targets, strict=True) for part in pair])


def open_text(name: str, *, sentences: int = 6000, seed: int = 0) -> Text:
    """"page" (the Declaration of Independence of 1776), "toy" (English sentences of the toy language), or a .txt file.

    sentences, seed: of the toy language. Raises DataError for anything else, and for a file without text.
    """
    if name == "page":
        return Text(name, (resources.files(__package__).joinpath("page.txt").read_text("utf-8").strip(),))
    if name == "toy":
        return Text(name, ("\n".join(english for english, _ in toy.draw(sentences, seed)),))
    text = _read(name, ("toy", "page"), ".txt").strip()
    if not text:
        raise DataError(f"{printable(name)}: there is no text in this file")
    return Text(name, (text,))


def open_pairs(name: str, *, sentences: int = 6000, seed: int = 0, on_error: str = "stop") -> Pairs:
    """"toy", or a .tsv file of UTF-8: on each line a sentence, a tabulator, its translation; empty lines do not count.

    sentences, seed: of the toy language. on_error: "stop" raises DataError at the first line that is no pair, naming
    it; "skip" leaves such lines out. Raises DataError for any other name, and where there is no pair.
    """
    if name == "toy":
        drawn = toy.draw(sentences, seed)
        keys = tuple(f"sentence {n}" for n in range(1, sentences + 1))
        return Pairs(name, tuple(here for here, _ in drawn), tuple(there for _, there in drawn), keys)
    found: list[tuple[str, str, str]] = []
    skipped: list[Skipped] = []
    for number, line in enumerate(_read(name, ("toy",), ".tsv").split("\n"), 1):
        cells = [cell.strip() for cell in line.split("\t")]
        if len(cells) == 2 and all(cells):
            found.append((cells[0], cells[1], f"line {number}"))
        elif any(cells):
            why = "one of its two columns is empty" if len(cells) == 2 else (
                f"it has {len(cells)} column{'s' * (len(cells) > 1)}, and a pair has two: a sentence and its "
                "translation, with a tabulator between them")
            if on_error == "stop":
                raise DataError(f"{printable(name)}, line {number}: {why}; --on-error skip leaves such lines out")
            skipped.append(Skipped(f"line {number}", why))
    if not found:
        raise DataError(f"{printable(name)}: there is no pair of sentences in this file")
    sources, targets, keys = zip(*found, strict=True)
    return Pairs(name, sources, targets, keys, tuple(skipped))


def split_text(text: Text, *, fraction: float, seed: int) -> tuple[Text, Text]:
    """What to learn from, and about a `fraction` held out: some of 20 blocks of the text, chosen by the seed.

    A block ends where a word does. Raises DataError where the text is too short for it.
    """
    whole = "\n".join(text.pieces)
    cuts = [0]
    for block in range(1, BLOCKS):
        at = max(len(whole) * block // BLOCKS, cuts[-1])
        cuts.append(next((i for i in range(at, len(whole)) if whole[i].isspace()), len(whole)))
    ends = [*cuts[1:], len(whole)]
    if not all(whole[a:b].strip() for a, b in zip(cuts, ends, strict=True)):
        raise DataError(f"{printable(text.name)}: a text of {len(whole)} characters is too short to hold a part of it "
                        "out: name a held-out text of its own, or a longer one")
    count = min(max(round(fraction * BLOCKS), 1), BLOCKS - 1)
    held = set(sorted(range(BLOCKS), key=lambda block: derive_seed(seed, "split", block))[:count])
    sides: tuple[list[str], list[str]] = ([], [])
    for is_held, run in groupby(range(BLOCKS), key=held.__contains__):
        members = list(run)                                     # blocks that follow one another are one piece
        sides[is_held].append(whole[cuts[members[0]]:ends[members[-1]]].strip())
    return Text(text.name, tuple(sides[0])), Text(text.name, tuple(sides[1]))


def split_pairs(pairs: Pairs, *, fraction: float, seed: int) -> tuple[Pairs, Pairs]:
    """What to learn from, and a `fraction` held out, chosen by the seed and the sentences alone. Pairs of the same
    sentence go to the same side. Raises DataError where a side would be empty."""
    names = sorted(set(pairs.sources), key=lambda sentence: (derive_seed(seed, "split", sentence), sentence))
    held = set(names[:max(1, round(fraction * len(names)))])
    sides = [[i for i in range(len(pairs)) if (pairs.sources[i] in held) == side] for side in (False, True)]
    if not all(sides):
        raise DataError(f"{printable(pairs.name)}: {len(names)} different sentences are too few to hold some of them "
                        "out: name held-out pairs of their own")
    return pairs.subset(sides[0]), pairs.subset(sides[1])


def _read(name: str, shipped: Sequence[str], suffix: str) -> str:
    """A file of text, its line ends as \\n. Raises DataError: it is not there, too large, or not UTF-8."""
    path, shown = Path(name).expanduser(), printable(name)
    if path.suffix.lower() != suffix:
        raise DataError(f"{shown!r} cannot be learned from here: give {' or '.join(shipped)}, or a file whose name "
                        f"ends in {suffix}.{did_you_mean(name, shipped)}")
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise DataError(f"{shown}: this is no regular file")
        if found.st_size > LARGEST:
            raise DataError(f"{shown}: {found.st_size:,} bytes are more than the {LARGEST:,} that are read into memory")
        data = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{shown}: {absent(path)}") from None
    except (OSError, ValueError) as e:
        raise DataError(f"{shown}: cannot be read: {getattr(e, 'strerror', None) or e}") from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        line = data.count(b"\n", 0, e.start) + 1
        raise DataError(f"{shown}, line {line}: the byte {data[e.start]:#04x} is not UTF-8: save the file as UTF-8") \
            from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise DataError(f"{shown}, line {line}: it holds a null character, and so is no file of text")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _sha256(parts: Sequence[str]) -> str:
    known = hashlib.sha256()
    for part in parts:
        data = part.encode()
        known.update(len(data).to_bytes(8, "little") + data)
    return known.hexdigest()
