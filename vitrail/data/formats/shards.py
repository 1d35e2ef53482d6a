"""webdataset tar shards on this machine, indexed once and read in any order: nothing is unpacked to disk.

In a shard the files `0001.jpg` and `0001.cls` (or .txt, .json) are one sample: an image and its label.
"""
import glob
import os
import stat
from pathlib import Path
from typing import Any

from vitrail.core.errors import DataError
from vitrail.data.settings import Decoding, Opening
from vitrail.data.dataset import SKIP_HINT, Skipped, natural, printable, settle
from vitrail.data.formats.classes import class_order, readable
from vitrail.data.formats.shard_samples import Sample, pair
from vitrail.data.formats.tar_index import index_tar
from vitrail.data.images import ImageDataset


class Shards(ImageDataset):
    """Images in tar files, by index."""

    def __init__(self, name: str, samples: list[Sample], labels: list[int], classes: tuple[str, ...], *,
                 decoding: Decoding, skipped: tuple[Skipped, ...] = (), strict: bool = True) -> None:
        self.name, self.classes, self.skipped = name, classes, skipped
        self.samples, self.labels = samples, labels
        self.decoding, self.hint = decoding, SKIP_HINT if strict else ""

    def __len__(self) -> int:
        return len(self.samples)

    def key(self, index: int) -> str:
        return self.samples[index].key

    def targets(self, index: int) -> dict[str, Any]:
        return {"class": self.labels[index]}

    def stratum(self, index: int) -> str:
        return self.classes[self.labels[index]]

    def stored(self, index: int) -> bytes:
        sample = self.samples[index]
        try:
            with open(sample.shard, "rb") as file:          # opened anew: safe in threads and forked workers
                file.seek(sample.image.start)
                data = file.read(sample.image.size)
        except OSError as e:
            raise DataError(f"{self.samples[index].key}: its shard cannot be read: {e.strerror}") from None
        if len(data) != sample.image.size:
            raise DataError(f"{self.samples[index].key}: its shard has become shorter since it was opened")
        return data


def open_shards(text: str, opening: Opening | None = None, *, name: str = "") -> Shards:
    """Tar shards: a file, a folder of .tar files, or a pattern such as shard-{000..009}.tar or shard-*.tar.

    A label is a class name, or a whole number (where `opening.classes` are names, their index). A sample without
    an image or label is an error (left out and listed under on_error="skip"); a shard that is compressed, cut
    short or damaged always is. Raises DataError.
    """
    opening, name = opening or Opening(), name or printable(text)
    samples: list[Sample] = []
    problems: list[Skipped] = []
    passed_over: list[Skipped] = []
    shards = _shards(text, name)
    bases = {s: Path(s).name for s in shards}
    if len(set(bases.values())) < len(shards):              # train/000.tar and val/000.tar: keys must stay apart
        bases = {s: s for s in shards}
    for shard in shards:
        members, special = index_tar(shard)
        passed_over.extend(Skipped(f"{printable(bases[shard])}:{k}", why, error=False) for k, why in special)
        samples.extend(pair(shard, printable(bases[shard]), members, problems, passed_over))
    settle(problems, opening.on_error, name)
    samples.sort(key=lambda s: natural(s.key))
    labels = _names([s.label for s in samples], opening)
    classes = class_order(labels, opening, name)
    numbers = {c: i for i, c in enumerate(classes)}
    strict = opening.on_error == "stop"
    whole = Shards(name, samples, [numbers[c] for c in labels], classes, decoding=opening.decoding,
                   skipped=tuple(passed_over), strict=strict)
    if strict:
        return whole
    if not opening.verify:
        return Shards(name, samples, whole.labels, classes, decoding=opening.decoding,
                      skipped=(*passed_over, *problems), strict=False)
    kept, bad = readable(whole, opening)
    return Shards(name, [samples[i] for i in kept], [whole.labels[i] for i in kept], classes,
                  decoding=opening.decoding, skipped=(*passed_over, *problems, *bad), strict=False)


def _shards(text: str, name: str) -> list[str]:
    path = Path(os.path.expanduser(text))
    try:
        if text and path.is_dir():
            found = [str(p) for p in path.iterdir() if p.suffix.lower() == ".tar" and not p.name.startswith(".")]
        elif text and path.exists():
            found = [str(path)]
        else:
            found = [p for pattern in _braces(str(path)) for p in glob.glob(pattern)]
        for shard in found:
            if not stat.S_ISREG(os.stat(shard).st_mode):
                raise DataError(f"{name}: {printable(shard)} is not a regular file")
    except (OSError, ValueError) as e:
        raise DataError(f"{name}: {printable(str(e))}") from None
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


def _names(labels: list[str], opening: Opening) -> list[str]:
    """Whole numbers become the names that the caller gave for them."""
    names = opening.classes
    if names is None or any(label in names for label in labels):
        return labels
    if not all(label.isascii() and label.isdecimal() and len(label) < 10 for label in labels):
        return labels
    return [names[int(label)] if int(label) < len(names) else label for label in labels]
