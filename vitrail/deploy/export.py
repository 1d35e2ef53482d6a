"""`vitrail.export`: a model as a file that runs without vitrail, compared on real images before it is there."""
import json
import os
import shutil
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vitrail.core.errors import ExportError, VitrailError, did_you_mean
from vitrail.core.files import atomic_file, sha256
from vitrail.core.config import ModelConfig
from vitrail.deploy.formats import FORMATS, Format
from vitrail.deploy.trace import still
from vitrail.deploy.verify import Images, compare

VERSION = "vitrail-export-1"
Size = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Exported:
    """An artefact that was compared with its model, and how.

    difference: the largest of any logit, of which `scale` is the range; agreement: share of same first answers.
    size: height and width, or "dynamic"; batch: a number, or "dynamic". seconds: for all of it. bytes: on the disk.
    """

    path: Path
    format: str
    model: str
    files: tuple[str, ...]
    size: Size | str
    batch: int | str
    images: int
    batches: tuple[int, ...]
    sizes: tuple[Size, ...]
    difference: float
    scale: float
    agreement: float
    tolerance: float
    seconds: float
    bytes: int

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "path": str(self.path)}

    def __str__(self) -> str:
        return (f"{self.path}: {self.bytes / 1e6:.1f} MB, checked on {self.images} images: largest difference "
                f"{self.difference:.2g} of logits ranging over {self.scale:.3g}, {self.agreement:.1%} of answers agree")


def export(model: nn.Module, path: str | Path, *, images: Any = None, format: str | None = None,
           size: Size | str | None = None, batch: int | str = "dynamic", overwrite: bool = False,
           tolerance: float = 1e-4) -> Exported:
    """Writes a classifier as ONNX (.onnx) or a torch.export program (.pt2), with its labels and preprocessing.

    images: real ones, as the model will see them: a list of paths, arrays, PIL images or tensors, or a folder.
    size:   height and width; the model's own unless given; "dynamic" for every size.
    batch:  "dynamic", or the one count of images that the artefact takes.
    tolerance: the largest difference of a logit allowed, as a share of the logits' range.

    The artefact is written aside, run on the images in several batches (and sizes), compared with the model, and only
    then put in place; PATH.json beside it holds its description, as it does itself. Larger than 2 GB, its weights
    stand in a file beside it.

    Raises ExportError where anything of this fails (`path` is then as it was), MissingExtra where the packages for
    ONNX are not installed, DataError on what is no image.
    """
    start = time.perf_counter()
    target = Path(path)
    kind = _kind(target, format)
    config = getattr(model, "config", None)
    if not isinstance(config, ModelConfig):
        raise ExportError(f"export takes a classifier of vitrail (create_model, load_model), not a "
                          f"{type(model).__name__}")
    fixed = _size(size, config.spec.preprocessing.size)
    if batch != "dynamic" and (not isinstance(batch, int) or isinstance(batch, bool) or batch < 1):
        raise ExportError(f"batch is {batch!r}, and must be 'dynamic' or a number from 1")
    if not 0 < tolerance < 1:
        raise ExportError(f"tolerance is {tolerance}, a share between 0 and 1")
    for there in (target, _beside(target)):
        if os.path.lexists(there) and (not overwrite or there.is_dir()):
            raise ExportError(f"{there} exists already, and nothing is overwritten unless asked: name another path, or "
                              "say overwrite")
    kind.check()
    real = Images(images, config.spec.preprocessing)
    ready = still(model)
    native = fixed or config.spec.preprocessing.size
    sizes = (native,) if fixed else others(native)
    batches = (1, 2, 5) if isinstance(batch, str) else (batch,)
    # a size and a count that no other number of the model happens to equal, so that the tracer cannot mistake them
    seen = native if fixed else (native[0] + 5, native[1] + 19)
    example = torch.zeros(2 if isinstance(batch, str) else batch, 3, *seen)
    note = {"format": VERSION, "kind": kind.name, **config.to_json(), "size": fixed or "dynamic", "batch": batch,
            "input": "image: float32 (batch, 3, height, width), RGB, normalised",
            "output": "logits: float32 (batch, classes)",
            "torch": torch.__version__, **kind.facts()}
    folder = _aside(target)
    try:
        made = folder / target.name
        kind.write(ready, example, made, batch=isinstance(batch, str), size=fixed is None,
                   note=json.dumps(note, ensure_ascii=False))
        try:
            run = kind.runner(made)
        except VitrailError:
            raise
        except Exception as e:
            raise ExportError(f"the artefact does not load: {' '.join(str(e).split())[:300]}. Nothing was "
                              "written") from e
        found = compare(ready, run, real, batches=batches, sizes=sizes, tolerance=tolerance)
        note["checked"] = {**asdict(found), "tolerance": tolerance}
        files, total = _put(made, target, note, overwrite=overwrite)
    except OSError as e:
        raise ExportError(f"{target}: not written: {e.strerror or e}; check the place and its permissions") from e
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return Exported(path=target, format=kind.name, model=config.model, files=files, size=fixed or "dynamic",
                    batch=batch, tolerance=tolerance, seconds=time.perf_counter() - start, bytes=total, **asdict(found))


def others(size: Size) -> tuple[Size, ...]:
    """The sizes at which an artefact for every size is tried: its own, wide, tall, and odd ones smaller and larger."""
    h, w = size
    return size, (h, w + w // 2), (h + h // 2, w), (h * 3 // 4 + 1, w * 7 // 8 + 3), (h * 9 // 8 + 1, w * 5 // 4 + 5)


def _put(made: Path, target: Path, note: dict[str, Any], *, overwrite: bool) -> tuple[tuple[str, ...], int]:
    """Moves the artefact, whatever stands beside it, and its description into place; the artefact itself last."""
    extra = sorted(p for p in made.parent.iterdir() if p != made)
    total = sum(p.stat().st_size for p in (made, *extra))
    beside = _beside(target)
    description = made.parent / beside.name
    note = {**note, "sha256": {p.name: sha256(p) for p in (made, *extra)}}
    description.write_text(json.dumps(note, indent=1, ensure_ascii=False) + "\n", "utf-8")
    new: list[Path] = []
    try:
        for source in (*extra, description, made):
            there = target.parent / source.name
            stood = there.exists()
            with atomic_file(there, overwrite=overwrite) as temporary:
                os.replace(source, temporary)
            new += [] if stood else [there]
    except BaseException:
        for path in new:
            path.unlink(missing_ok=True)
        raise
    return tuple(p.name for p in (target, beside, *extra)), total


def _aside(target: Path) -> Path:
    """A new folder beside the target, to work in."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=".export-", dir=target.parent))
    except OSError as e:
        raise ExportError(f"{target}: cannot be written there: {e.strerror or e}") from e


def _beside(target: Path) -> Path:
    return target.with_name(target.name + ".json")


def _kind(target: Path, format: str | None) -> Format:
    names = [kind.name for kind in FORMATS]
    if format is not None:
        if format not in names:
            raise ExportError(f"there is no format {format!r}.{did_you_mean(format, names)} There are: {', '.join(names)}.")
        return FORMATS[names.index(format)]
    for kind in FORMATS:
        if target.suffix.lower() == kind.suffix:
            return kind
    suffixes = [kind.suffix for kind in FORMATS]
    raise ExportError(f"{target} does not say what to write:{did_you_mean(target.suffix, suffixes)} end it in "
                      f"{' or '.join(suffixes)}, or name the format")


def _size(size: Size | str | None, own: Size) -> Size | None:
    """The one size of the artefact, or None for every size."""
    if size is None:
        return own
    if size == "dynamic":
        return None
    if not isinstance(size, tuple | list) or len(size) != 2 or not all(isinstance(n, int) and n > 0 for n in size):
        raise ExportError(f"size is {size!r}, and must be (height, width) in pixels, or 'dynamic'")
    return size[0], size[1]
