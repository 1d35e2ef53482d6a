"""The kinds of artefact: how each is written, and how it is run to see what it answers."""
import re
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from vitrail.core.errors import ExportError, MissingExtra
from vitrail.deploy.trace import in_the_open, quiet, settled, trace

OPSET = 20              # the newest that the exporter writes directly; antialiased resizing needs 18
LARGE = 1_900_000_000   # bytes of weights; one file of ONNX holds less than 2 GiB
NOTE = "vitrail"        # the key under which an artefact carries its description
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")          # which the exporter puts into its messages


class Format(Protocol):
    """One kind of artefact. `write` raises ExportError, `runner` whatever the runtime raises on a broken file."""

    name: str
    suffix: str

    def check(self) -> None: ...
    def facts(self) -> dict[str, Any]: ...
    def write(self, model: nn.Module, example: Tensor, path: Path, *, batch: bool, size: bool, note: str) -> None: ...
    def runner(self, path: Path) -> Callable[[Tensor], Tensor]: ...
    def note(self, path: Path) -> str: ...


class Onnx:
    """ONNX, by PyTorch's dynamo exporter. Weights of more than 2 GB stand in a file of their own beside it."""

    name, suffix = "onnx", ".onnx"

    def check(self) -> None:
        for package in ("onnx", "onnxscript", "onnxruntime"):
            if find_spec(package) is None:
                raise MissingExtra.of(package, "onnx")

    def facts(self) -> dict[str, Any]:
        import onnx
        import onnxruntime
        return {"opset": OPSET, "onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__}

    def write(self, model: nn.Module, example: Tensor, path: Path, *, batch: bool, size: bool, note: str) -> None:
        with in_the_open(model):
            program = trace(model, example, batch=batch, size=size)
        shapes = {axis: name for axis, name, wanted in
                  ((0, "batch", batch), (2, "height", size), (3, "width", size)) if wanted}
        try:
            with quiet():
                if not size:            # else tables would be resized in the file, by each runtime in its own way
                    program = settled(program)
                made = torch.onnx.export(program, dynamo=True, input_names=["image"], output_names=["logits"],
                                         opset_version=OPSET, verbose=False, optimize=True)
                assert made is not None
                image, logits = made.model.graph.inputs[0], made.model.graph.outputs[0]
                _name_sizes(image, shapes)
                _name_sizes(logits, {axis: name for axis, name in shapes.items() if axis == 0})
                made.model.metadata_props[NOTE] = note
                kept = [v.const_value for v in made.model.graph.initializers.values()]
                made.save(path, external_data=sum(t.nbytes for t in kept if t is not None) > LARGE)
        except Exception as e:                                  # as with the tracer
            text = " ".join(_COLOURS.sub("", str(e)).split())[:300]
            raise ExportError(f"the ONNX exporter failed on this model: {text or type(e).__name__}") from e

    def runner(self, path: Path) -> Callable[[Tensor], Tensor]:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        return lambda image: torch.from_numpy(session.run(["logits"], {"image": image.numpy()})[0])

    def note(self, path: Path) -> str:
        import onnx
        model = onnx.load(str(path), load_external_data=False)
        return {prop.key: prop.value for prop in model.metadata_props}[NOTE]


class Program:
    """A program of `torch.export`, which PyTorch runs without the model's code."""

    name, suffix = "pt2", ".pt2"

    def check(self) -> None:
        return

    def facts(self) -> dict[str, Any]:
        return {}

    def write(self, model: nn.Module, example: Tensor, path: Path, *, batch: bool, size: bool, note: str) -> None:
        program = trace(model, example, batch=batch, size=size)
        try:
            with quiet():
                torch.export.save(program, path, extra_files={NOTE: note})
        except Exception as e:                                  # a full disk is a RuntimeError here
            raise ExportError(f"the program could not be saved: {' '.join(str(e).split())[:300]}") from e

    def runner(self, path: Path) -> Callable[[Tensor], Tensor]:
        with quiet():
            program = torch.export.load(path).module()

        def run(image: Tensor) -> Tensor:
            with torch.no_grad():
                out = program(image)
            assert isinstance(out, Tensor)
            return out
        return run

    def note(self, path: Path) -> str:
        files: dict[str, Any] = {NOTE: ""}
        with quiet():
            torch.export.load(path, extra_files=files)
        found = files[NOTE]
        return found.decode() if isinstance(found, bytes) else str(found)


FORMATS: tuple[Format, ...] = (Onnx(), Program())


def _name_sizes(value: Any, names: Mapping[int, str]) -> None:
    """Gives a graph's open sides the names that a reader of the file expects."""
    import onnx_ir

    sides = list(value.shape)
    for axis, name in names.items():
        sides[axis] = name
    value.shape = onnx_ir.Shape(sides)
