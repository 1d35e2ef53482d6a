"""webdataset tar shards on this machine, indexed once and read in any order: nothing is unpacked to disk.

In a shard the files `0001.jpg` and `0001.cls` (or .txt, .json) are one sample: an image and its label.
"""
import glob
import hashlib
import json
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from vitrail.core.errors import DataError
from vitrail.data.decode import SUFFIXES, decode
from vitrail.data.settings import Decoding, Opening
from vitrail.data.source import SKIP_HINT, Skipped, class_order, fingerprint, natural, parts_of, printable, settle
from vitrail.data.tar_index import Member, index_tar
from vitrail.data.verify import verify

LABELS = (".cls", ".txt", ".json")                          # the first that a sample has
MAX_LABEL, MAX_IMAGE = 1 << 16, 1 << 29                     # bytes
Found = tuple[str, Member, str, str]                        # key, image, label, shard


@dataclass(frozen=True)
class Place:
    """Where an image's bytes lie."""

    shard: str
    start: int
    size: int


class Shards:
    """Images in tar files, by index."""

    def __init__(self, name: str, keys: list[str], places: list[Place], labels: list[int], classes: tuple[str, ...], *,
                 decoding: Decoding, skipped: tuple[Skipped, ...] = (), strict: bool = True) -> None:
        self.name, self.classes, self.skipped = name, classes, skipped
        self.keys, self.places, self.labels = keys, places, labels
        self.parts = parts_of([""] * len(keys))
        self.decoding, self.hint = decoding, SKIP_HINT if strict else ""

    def __len__(self) -> int:
        return len(self.keys)

    def key(self, index: int) -> str:
        return self.keys[index]

    def label(self, index: int) -> int:
        return self.labels[index]

    def read(self, index: int) -> Tensor:
        try:
            return decode(self._bytes(index), name=self.keys[index], how=self.decoding)
        except DataError as e:
            raise DataError(f"{e}{self.hint}") from None

    def digest(self, index: int) -> str:
        return hashlib.sha256(self._bytes(index)).hexdigest()

    def fingerprint(self) -> str:
        return fingerprint(self)

    def _bytes(self, index: int) -> bytes:
        place = self.places[index]
        try:
            with open(place.shard, "rb") as file:           # opened anew: safe in threads and forked workers
                file.seek(place.start)
                data = file.read(place.size)
        except OSError as e:
            raise DataError(f"{self.keys[index]}: its shard cannot be read: {e.strerror}") from None
        if len(data) != place.size:
            raise DataError(f"{self.keys[index]}: its shard has become shorter since it was opened")
        return data


def open_shards(text: str, opening: Opening | None = None, *, name: str = "") -> Shards:
    """Tar shards: a file, a folder of .tar files, or a pattern such as shard-{000..009}.tar or shard-*.tar.

    A label is a class name, or a whole number (where `opening.classes` are names, their index). A sample without
    an image or label is an error (left out and listed under on_error="skip"); a shard that is compressed, cut
    short or damaged always is. Raises DataError.
    """
    opening, name = opening or Opening(), name or printable(text)
    found: list[Found] = []
    problems: list[Skipped] = []
    passed_over: list[Skipped] = []
    shards = _shards(text, name)
    bases = {s: Path(s).name for s in shards}
    if len(set(bases.values())) < len(shards):              # train/000.tar and val/000.tar: keys must stay apart
        bases = {s: s for s in shards}
    for shard in shards:
        members, special = index_tar(shard)
        passed_over.extend(Skipped(f"{printable(bases[shard])}:{k}", why) for k, why in special)
        _pair(shard, printable(bases[shard]), members, found, problems, passed_over)
    settle(problems, opening, name)
    found.sort(key=lambda f: natural(f[0]))
    labels = _names([label for _, _, label, _ in found], opening)
    classes = class_order(labels, opening, name)
    numbers = {c: i for i, c in enumerate(classes)}
    keys = [key for key, *_ in found]
    places = [Place(shard, image.start, image.size) for _, image, _, shard in found]
    whole = Shards(name, keys, places, [numbers[c] for c in labels], classes, decoding=opening.decoding,
                   skipped=tuple(passed_over))
    if opening.on_error == "stop":
        return whole
    bad = verify(Shards(name, keys, places, whole.labels, classes, decoding=opening.decoding, strict=False).read,
                 keys, opening.threads)
    kept = [i for i in range(len(keys)) if i not in bad]
    for number, label in enumerate(classes):
        if opening.classes is None and number not in {whole.labels[i] for i in kept}:
            raise DataError(f"{name}: no image of the class {label!r} can be read")
    if not kept:
        raise DataError(f"{name}: not one of the {len(keys)} images can be read")
    return Shards(name, [keys[i] for i in kept], [places[i] for i in kept], [whole.labels[i] for i in kept], classes,
                  decoding=opening.decoding, skipped=(*passed_over, *problems, *bad.values()), strict=False)


def _shards(text: str, name: str) -> list[str]:
    path = Path(text).expanduser()
    try:
        if text and path.is_dir():
            found = [str(p) for p in path.iterdir() if p.suffix.lower() == ".tar" and not p.name.startswith(".")]
        elif text and path.exists():
            found = [str(path)]
        else:
            found = [p for pattern in _braces(str(path)) for p in glob.glob(pattern)]
    except (OSError, ValueError) as e:
        raise DataError(f"{name}: {e}") from None
    for shard in found:
        if not stat.S_ISREG(os.stat(shard).st_mode):
            raise DataError(f"{name}: {printable(shard)} is not a regular file")
    if not found:
        raise DataError(f"{name}: there is no tar file here. Shards must lie on this machine; download them first")
    return sorted(set(found), key=natural)


def _braces(text: str) -> list[str]:
    """shard-{08..11}.tar -> shard-08.tar ... shard-11.tar"""
    head, _, rest = text.partition("{")
    span, closed, tail = rest.partition("}")
    low, dots, high = span.partition("..")
    if not (closed and dots and low.isdecimal() and high.isdecimal() and len(low) < 10 and len(high) < 10):
        return [text]
    if not 0 <= int(high) - int(low) < 100_000:
        raise ValueError(f"{{{span}}} does not count up")
    return [f"{head}{n:0{len(low)}d}{rest}" for n in range(int(low), int(high) + 1) for rest in _braces(tail)]


def _pair(shard: str, base: str, members: list[Member], found: list[Found], problems: list[Skipped],
          passed_over: list[Skipped]) -> None:
    """Members of one stem (the name up to its first dot) are one sample."""
    groups: dict[str, dict[str, Member]] = {}
    for member in members:
        folder, _, file = member.name.rpartition("/")
        stem, dot, ending = file.partition(".")
        suffix = f".{ending.lower()}" if dot else ""
        if file.startswith("."):
            passed_over.append(Skipped(f"{base}:{printable(member.name)}", "a hidden name"))
            continue
        group = groups.setdefault(f"{folder}/{stem}" if folder else stem, {})
        if suffix in group:
            problems.append(Skipped(f"{base}:{printable(member.name)}", "this name comes twice"))
        else:
            group[suffix] = member
    for stem, group in groups.items():
        images = [m for s, m in group.items() if "." + s.rpartition(".")[2] in SUFFIXES]
        key = f"{base}:{printable(stem)}"
        try:
            if not images:
                raise DataError(f"no image among {', '.join(map(printable, group))}")
            if len(images) > 1:
                raise DataError(f"{len(images)} images have this name")
            if images[0].size > MAX_IMAGE:
                raise DataError(f"an image file of {images[0].size / 1e6:.0f} MB is larger than is read")
            found.append((key, images[0], _label(shard, group), shard))
        except DataError as e:
            problems.append(Skipped(key, str(e)))


def _label(shard: str, group: dict[str, Member]) -> str:
    suffix = next((s for s in LABELS if s in group), None)
    if suffix is None:
        raise DataError(f"no label: {', '.join(LABELS)} are looked for")
    member = group[suffix]
    if member.size > MAX_LABEL:
        raise DataError(f"a label of {member.size} bytes")
    with open(shard, "rb") as file:
        file.seek(member.start)
        raw = file.read(member.size)
    try:
        text = raw.decode("utf-8-sig").strip()
        if suffix == ".json":
            value = json.loads(text)
            value = next((value[k] for k in ("label", "class", "cls") if k in value), None)
            if not isinstance(value, str | int) or isinstance(value, bool):
                raise DataError("its .json has no 'label' that is a name or a whole number")
            text = str(value).strip()
    except (ValueError, TypeError, RecursionError) as e:
        raise DataError(f"its label ({suffix}) cannot be read: {e}") from None
    if not text or printable(text) != text:
        raise DataError("its label is empty, or holds control characters")
    return text


def _names(labels: list[str], opening: Opening) -> list[str]:
    """Whole numbers become the names that the caller gave for them."""
    names = opening.classes
    if names is None or any(label in names for label in labels):
        return labels
    if not all(label.isascii() and label.isdecimal() and len(label) < 10 for label in labels):
        return labels
    return [names[int(label)] if int(label) < len(names) else label for label in labels]
