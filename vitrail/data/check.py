"""`vitrail data check`: what a data set holds, and what is wrong with it. Nothing is written near the data."""
import hashlib
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vitrail.core.errors import DataError
from vitrail.data.check_report import ClassCount, Duplicate, Report, Sizes
from vitrail.data.decode import decode, kind_of
from vitrail.data.open import open_with
from vitrail.data.settings import Decoding, Opening
from vitrail.data.dataset import Skipped, in_threads
from vitrail.data.images import ImageDataset

FEW = 10                                                    # images of a class, below which it is near-empty
IMBALANCE = 10                                              # largest over smallest class
SMALL = 32                                                  # pixels: a shorter side below two patches of 16
READ_WHOLE = 1 << 29                                        # bytes: a larger file is not held in memory

Progress = Callable[[int, int], None]                       # images looked at, images in all


@dataclass(frozen=True)
class Seen:
    """One image, looked at once."""

    why: str = ""                                           # it cannot be read
    kind: str = ""
    size: tuple[int, int] = (0, 0)                          # height, width
    content: bytes = b""                                    # hash of the pixels
    blank: bool = False                                     # all pixels alike


def check(text: str | Path, opening: Opening | None = None, *, progress: Progress | None = None) -> Report:
    """Everything worth knowing about a data set; every image is decoded once, in threads.

    A fault is an entry in the report, not an exception: `report.ok` is False and `report.faults` says why.
    Raises SettingsError and MissingExtra only.
    """
    return checked(text, opening, progress=progress)[0]


def checked(text: str | Path, opening: Opening | None = None, *,
            progress: Progress | None = None) -> tuple[Report, ImageDataset | None]:
    """The report, and the data set itself for a sample sheet: None where it cannot be opened at all."""
    asked = opening or Opening()
    try:
        dataset = open_with(str(text), replace(asked, on_error="skip", verify=False))
    except DataError as e:
        return Report(name=str(text), faults=(str(e),)), None
    return inspect(dataset, asked.decoding, threads=asked.threads, progress=progress), dataset


def inspect(dataset: ImageDataset, how: Decoding | None = None, *, threads: int = 0,
            progress: Progress | None = None) -> Report:
    """The report on a data set that is open."""
    how = how or Decoding()
    seen: list[Seen] = []
    for image in in_threads(lambda i: _look(dataset, i, how), len(dataset), threads):
        seen.append(image)
        if progress is not None:
            progress(len(seen), len(dataset))
    broken = tuple(Skipped(dataset.key(i), s.why) for i, s in enumerate(seen) if s.why)
    good = [s for s in seen if not s.why]
    classes = _count(dataset, seen)
    faults = [f"{s.key}: {s.why}" for s in (*broken, *dataset.skipped) if s.error]
    unused = tuple(c.name for c in classes if not c.images)
    duplicates = _duplicates(dataset, seen)
    return Report(
        name=dataset.name, images=len(dataset), classes=classes, broken=broken, skipped=tuple(dataset.skipped),
        splits={split: len(members) for split, members in dataset.splits.items()},
        kinds=dict(Counter(s.kind for s in good).most_common()), sizes=_sizes(good), duplicates=duplicates,
        faults=tuple(faults), warnings=tuple(_warnings(classes, good, duplicates, unused)))


def _look(dataset: ImageDataset, index: int, how: Decoding) -> Seen:
    try:
        stored = dataset.stored(index)
        if isinstance(stored, Path) and stored.is_file() and stored.stat().st_size <= READ_WHOLE:
            stored = stored.read_bytes()                    # once, for the header and for the pixels
        image = decode(stored, name=dataset.key(index), how=how)
        kind = kind_of(stored, how)
    except DataError as e:
        return Seen(why=str(e).removeprefix(f"{dataset.key(index)}: "))
    except OSError as e:
        return Seen(why=f"the file cannot be read: {e.strerror}")
    height, width = image.shape[-2:]
    content = hashlib.blake2b(f"{height} {width}".encode(), digest_size=16)
    content.update(image.permute(1, 2, 0).contiguous().numpy().tobytes())
    blank = bool((image == image[:, :1, :1]).all())
    return Seen(kind=kind, size=(height, width), content=content.digest(), blank=blank)


def _count(dataset: ImageDataset, seen: list[Seen]) -> tuple[ClassCount, ...]:
    images = Counter[str]()
    good = Counter[str]()
    where: dict[str, Counter[str]] = {}
    split_of = {i: split for split, members in dataset.splits.items() for i in members}
    for index, image in enumerate(seen):
        label = dataset.stratum(index)
        images[label] += 1
        if not image.why:
            good[label] += 1
            if index in split_of:
                where.setdefault(label, Counter())[split_of[index]] += 1
    return tuple(ClassCount(name, images[name], good[name], dict(where.get(name, {}))) for name in dataset.classes)


def _sizes(good: list[Seen]) -> Sizes | None:
    if not good:
        return None
    heights, widths = [s.size[0] for s in good], [s.size[1] for s in good]
    area = sorted(good, key=lambda s: (s.size[0] * s.size[1], s.size))
    return Sizes(smallest=area[0].size, largest=area[-1].size,
                 median=(int(statistics.median(heights)), int(statistics.median(widths))),
                 different=len({s.size for s in good}), small=sum(min(s.size) < SMALL for s in good),
                 blank=sum(s.blank for s in good))


def _duplicates(dataset: ImageDataset, seen: list[Seen]) -> tuple[Duplicate, ...]:
    """Images with the same pixels, whatever their files are called or how they are stored."""
    split_of = {i: split for split, members in dataset.splits.items() for i in members}
    groups: dict[bytes, list[int]] = {}
    for index, image in enumerate(seen):
        if not image.why:
            groups.setdefault(image.content, []).append(index)
    return tuple(
        Duplicate(tuple(dataset.key(i) for i in group),
                  tuple(sorted({dataset.stratum(i) for i in group if dataset.stratum(i)})),
                  tuple(sorted({split_of[i] for i in group if i in split_of})))
        for group in groups.values() if len(group) > 1)


def _warnings(classes: tuple[ClassCount, ...], good: list[Seen], duplicates: tuple[Duplicate, ...],
              unused: tuple[str, ...]) -> list[str]:
    found = []

    def say(what: str, count: int, names: Sequence[str] = ()) -> None:
        if count:
            some = ", ".join(n if len(n) <= 60 else f"{n[:57]}..." for n in names[:5])
            more = ", ..." if len(names) > 5 else ""
            found.append(f"{what}: {count}" + (f" ({some}{more})" if names else ""))

    used = [c for c in classes if c.images]
    if len(used) == 1:
        found.append(f"there is one class only, {used[0].name!r}: nothing to tell apart")
    few = [c for c in used if c.readable < FEW]
    say(f"classes of fewer than {FEW} images", len(few), [f"{c.name}: {c.readable}" for c in few])
    counts = [c.readable for c in used if c.readable]
    if counts and max(counts) >= IMBALANCE * min(counts):
        found.append(f"the largest class has {max(counts) / min(counts):.0f} times the images of the smallest")
    for split in sorted({split for c in used for split in c.splits}):
        lacking = [c.name for c in used if split not in c.splits]
        say(f"classes without an image in the {split} split", len(lacking), lacking)
    say("classes asked for that have no image", len(unused), unused)
    say("images that are copies of others", sum(len(d.keys) - 1 for d in duplicates))
    say("images in more than one split (held out, yet trained on)", sum(len(d.splits) > 1 for d in duplicates))
    say("images in more than one class", sum(len(d.classes) > 1 for d in duplicates))
    say(f"images with a side below {SMALL} pixels", sum(min(s.size) < SMALL for s in good))
    say("images of one colour throughout", sum(s.blank for s in good))
    return found
