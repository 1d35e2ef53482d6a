"""Which members of a tar shard belong together, and what a sample's label is."""
import json
from collections.abc import Iterator
from typing import NamedTuple

from vitrail.core.errors import DataError
from vitrail.data.decode import SUFFIXES
from vitrail.data.dataset import Skipped, printable
from vitrail.data.formats.tar_index import Member

LABELS = (".cls", ".txt", ".json")                          # the first that a sample has
MAX_LABEL, MAX_IMAGE = 1 << 16, 1 << 29                     # bytes


class Sample(NamedTuple):
    key: str
    shard: str
    image: Member
    label: str


def pair(shard: str, base: str, members: list[Member], problems: list[Skipped],
         passed_over: list[Skipped]) -> Iterator[Sample]:
    """Members of one stem (the name up to its first dot) are one sample. What is none goes to `problems`."""
    groups: dict[str, dict[str, Member]] = {}
    for member in members:
        folder, _, file = member.name.rpartition("/")
        stem, dot, ending = file.partition(".")
        suffix = f".{ending.lower()}" if dot else ""
        if file.startswith("."):
            passed_over.append(Skipped(f"{base}:{printable(member.name)}", "a hidden name", error=False))
            continue
        group = groups.setdefault(f"{folder}/{stem}" if folder else stem, {})
        if suffix in group:
            problems.append(Skipped(f"{base}:{printable(member.name)}", "this name comes twice"))
        else:
            group[suffix] = member
    for stem, group in groups.items():
        images = [m for s, m in group.items() if s in SUFFIXES]         # before 0001.mask.png and the like
        images = images or [m for s, m in group.items() if "." + s.rpartition(".")[2] in SUFFIXES]
        key = f"{base}:{printable(stem)}"
        try:
            if not images:
                raise DataError(f"no image among {', '.join(map(printable, group))}")
            if len(images) > 1:
                raise DataError(f"{len(images)} images have this name")
            if images[0].size > MAX_IMAGE:
                raise DataError(f"an image file of {images[0].size / 1e6:.0f} MB is larger than is read")
            yield Sample(key, shard, images[0], _label(shard, group))
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
