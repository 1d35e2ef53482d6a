"""`vitrail.export`: a model as a file that runs without vitrail, compared on real images before it is there."""
import json
import os
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vitrail.core.errors import ExportError, VitrailError, did_you_mean
from vitrail.core.files import atomic_file, sha256
from vitrail.core.config import FORMAT, ModelConfig
from vitrail.deploy.formats import FORMATS, Format, Signature
from vitrail.deploy.inputs import ModelInputs, Size
from vitrail.deploy.structure import Flat, leaves_of, names_of
from vitrail.deploy.trace import still
from vitrail.deploy.verify import compare

VERSION = "vitrail-export-2"


@dataclass(frozen=True, kw_only=True)
class Exported:
    """An artefact that was compared with its model, and how.

    difference: the largest of any number, in the output `worst`, of which `scale` is the range; agreement: the share of
    samples with the same answer. size: height and width, or a text's length, or "dynamic"; batch: a number, or
    "dynamic". seconds: for all of it. bytes: on the disk.
    """

    path: Path
    format: str
    model: str
    files: tuple[str, ...]
    size: Size | str
    batch: int | str
    samples: int
    batches: tuple[int, ...]
    sizes: tuple[Size, ...]
    worst: str
    difference: float
    scale: float
    agreement: float
    tolerance: float
    seconds: float
    bytes: int

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "path": str(self.path)}

    def __str__(self) -> str:
        return (f"{self.path}: {self.bytes / 1e6:.1f} MB, checked on {self.samples} samples: largest difference "
                f"{self.difference:.2g} of {self.worst} ranging over {self.scale:.3g}"
                + (f", {self.agreement:.1%} of answers agree" if self.agreement == self.agreement else ""))


def export(model: nn.Module, path: str | Path, *, images: Any = None, format: str | None = None,
           size: Size | str | None = None, batch: int | str = "dynamic", overwrite: bool = False,
           tolerance: float = 1e-4) -> Exported:
    """Writes a model as ONNX (.onnx) or a torch.export program (.pt2), with what its task remembers of it.

    images: real ones, as the model will see them: a list of paths, arrays, PIL images or tensors, or a folder; texts
            or a file of them for a model of text.
    size:   height and width, or the tokens of a text; the model's own unless given; "dynamic" for every size.
    batch:  "dynamic", or the one count of samples that the artefact takes.
    tolerance: the largest difference allowed in any output, as a share of that output's range.

    Inputs and outputs are called by the fields of the task's structures. The artefact is written aside, run on the
    images in several batches (and sizes), compared with the model, and only
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
        raise ExportError(f"export takes a model of vitrail (create_model, load_model), not a {type(model).__name__}")
    inputs = ModelInputs(config)
    native = inputs.size
    fixed = _size(size, native)
    if batch != "dynamic" and (not isinstance(batch, int) or isinstance(batch, bool) or batch < 1):
        raise ExportError(f"batch is {batch!r}, and must be 'dynamic' or a number from 1")
    if not 0 < tolerance < 1:
        raise ExportError(f"tolerance is {tolerance}, a share between 0 and 1")
    for there in (target, _beside(target)):
        if os.path.lexists(there) and (not overwrite or there.is_dir()):
            raise ExportError(f"{there} exists already, and nothing is overwritten unless asked: name another path, or "
                              "say overwrite")
    kind.check()
    ready = still(model)
    sizes = (fixed,) if fixed else others(native)
    batches = (1, 2, 5) if isinstance(batch, str) else (batch,)
    inputs.read(images, size=sizes[0], most=1)          # what is wrong with them is said before the model is traced
    example = inputs.example(2 if isinstance(batch, str) else batch, fixed or _traced_size(native))
    with torch.no_grad():
        output = ready(*example)
    outputs = _apart(names_of(output, inputs.task.output_name), inputs.names)
    signature = Signature(example=example, inputs=inputs.names, outputs=outputs,
                          axes=inputs.axes(fixed or native, batch=isinstance(batch, str), open_size=fixed is None),
                          open_size=fixed is None)
    note = {"format": VERSION, "kind": kind.name, "config": {"format": FORMAT, **config.to_json()},
            "size": fixed or "dynamic", "batch": batch,
            "inputs": _described(signature.inputs, example, signature.axes),
            "outputs": _described(signature.outputs, leaves_of(output), ()),
            "torch": torch.__version__, **kind.facts()}
    folder = _aside(target)
    try:
        made = folder / target.name
        kind.write(Flat(ready).eval(), signature, made, note=json.dumps(note, ensure_ascii=False))
        try:
            run = kind.runner(made, signature)
        except VitrailError:
            raise
        except Exception as e:
            raise ExportError(f"the artefact does not load: {' '.join(str(e).split())[:300]}. Nothing was "
                              "written") from e
        found = compare(ready, run, inputs, images, batches=batches, sizes=sizes, tolerance=tolerance)
        note["checked"] = {**asdict(found), "tolerance": tolerance}
        files, total = _put(made, target, note, overwrite=overwrite)
    except OSError as e:
        raise ExportError(f"{target}: not written: {e.strerror or e}; check the place and its permissions") from e
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return Exported(path=target, format=kind.name, model=config.model, files=files, size=fixed or "dynamic",
                    batch=batch, tolerance=tolerance, seconds=time.perf_counter() - start, bytes=total, **asdict(found))


def others(size: Size) -> tuple[Size, ...]:
    """The sizes at which an artefact for every size is tried: its own, wide, tall, and odd ones smaller and larger; of
    a text's, which has a longest one, shorter ones."""
    if isinstance(size, int):
        return size, max(2, size - 1), max(2, size * 2 // 3), max(2, size // 2)
    h, w = size
    return size, (h, w + w // 2), (h + h // 2, w), (h * 3 // 4 + 1, w * 7 // 8 + 3), (h * 9 // 8 + 1, w * 5 // 4 + 5)


def _traced_size(native: Size) -> Size:
    """A size that no other number of the model happens to equal, so that the tracer cannot mistake one for it."""
    return native - 1 if isinstance(native, int) else (native[0] + 5, native[1] + 19)


def _apart(outputs: Sequence[str], inputs: Sequence[str]) -> list[str]:
    """The names of outputs, none of which is an input's: in ONNX both share one namespace."""
    return [f"output_{name}" if name in inputs else name for name in outputs]


def _described(names: Sequence[str], tensors: Sequence[Tensor], axes: Sequence[Mapping[int, str]]) -> dict[str, str]:
    """{"image": "float32 (batch, 3, 224, 224)"}"""
    described = {}
    for number, (name, tensor) in enumerate(zip(names, tensors, strict=True)):
        named = axes[number] if axes else {0: "batch"}
        sides = (str(named.get(axis, side)) for axis, side in enumerate(tensor.shape))
        described[name] = f"{str(tensor.dtype).removeprefix('torch.')} ({', '.join(sides)})"
    return described


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
            raise ExportError(f"there is no format {format!r}.{did_you_mean(format, names)} There are: "
                              f"{', '.join(names)}.")
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
    if isinstance(own, int):
        if not isinstance(size, int) or isinstance(size, bool) or not 1 < size <= own:
            raise ExportError(f"size is {size!r}, and must be the tokens of a text, 2 to {own}, or 'dynamic'")
        return size
    if not isinstance(size, tuple | list) or len(size) != 2 or not all(isinstance(n, int) and n > 0 for n in size):
        raise ExportError(f"size is {size!r}, and must be (height, width) in pixels, or 'dynamic'")
    return size[0], size[1]
