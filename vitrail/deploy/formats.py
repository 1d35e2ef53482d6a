"""The kinds of artefact: how each is written, and how it is run to see what it answers."""
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from vitrail.core.errors import ExportError, MissingExtra
from vitrail.deploy.structure import leaves_of
from vitrail.deploy.trace import in_the_open, quiet, settled, trace
from vitrail.deploy.verify import Run

OPSET = 20              # the newest that the exporter writes directly; antialiased resizing needs 18
LARGE = 1_900_000_000   # bytes of weights; one file of ONNX holds less than 2 GiB
NOTE = "vitrail"        # the key under which an artefact carries its description
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")          # which the exporter puts into its messages


@dataclass(frozen=True, kw_only=True)
class Signature:
    """What an artefact takes and gives.

    example: the input tensors it is traced with. inputs, outputs: the names of its tensors. axes: the open axes of each
    input, by name. open_size: whether more than the batch is open.
    """

    example: Sequence[Tensor]
    inputs: Sequence[str]
    outputs: Sequence[str]
    axes: Sequence[Mapping[int, str]]
    open_size: bool


class Format(Protocol):
    """One kind of artefact. `write` raises ExportError, `runner` whatever the runtime raises on a broken file."""

    name: str
    suffix: str

    def check(self) -> None: ...
    def facts(self) -> dict[str, Any]: ...
    def write(self, model: nn.Module, signature: Signature, path: Path, *, note: str) -> None: ...
    def runner(self, path: Path, signature: Signature) -> Run: ...
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

    def write(self, model: nn.Module, signature: Signature, path: Path, *, note: str) -> None:
        with in_the_open(model):
            program = trace(model, signature.example, axes=signature.axes, open_size=signature.open_size)
        try:
            with quiet():
                # else tables would be resized in the file, by each runtime in its own way
                if not signature.open_size:
                    program = settled(program)
                made = torch.onnx.export(program, dynamo=True, input_names=list(signature.inputs),
                                         output_names=list(signature.outputs), opset_version=OPSET, verbose=False,
                                         optimize=True)
                assert made is not None
                for value, axes in zip(made.model.graph.inputs, signature.axes, strict=True):
                    _name_sizes(value, axes)
                batch_first = any("batch" in axes.values() for axes in signature.axes)
                for value in made.model.graph.outputs:
                    if batch_first and value.shape is not None and not isinstance(value.shape[0], int):
                        _name_sizes(value, {0: "batch"})
                made.model.metadata_props[NOTE] = note
                kept = [v.const_value for v in made.model.graph.initializers.values()]
                made.save(path, external_data=sum(t.nbytes for t in kept if t is not None) > LARGE)
        except Exception as e:                                  # as with the tracer
            text = " ".join(_COLOURS.sub("", str(e)).split())[:300]
            raise ExportError(f"the ONNX exporter failed on this model: {text or type(e).__name__}") from e

    def runner(self, path: Path, signature: Signature) -> Run:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

        def run(given: Sequence[Tensor]) -> list[Tensor]:
            # what the answer does not depend on is no input of the graph
            known = {value.name for value in session.get_inputs()}
            named = {name: leaf.numpy() for name, leaf in zip(signature.inputs, given, strict=True) if name in known}
            return [torch.from_numpy(array) for array in session.run(list(signature.outputs), named)]
        return run

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

    def write(self, model: nn.Module, signature: Signature, path: Path, *, note: str) -> None:
        program = trace(model, signature.example, axes=signature.axes, open_size=signature.open_size)
        try:
            with quiet():
                torch.export.save(program, path, extra_files={NOTE: note})
        except Exception as e:                                  # a full disk is a RuntimeError here
            raise ExportError(f"the program could not be saved: {' '.join(str(e).split())[:300]}") from e

    def runner(self, path: Path, signature: Signature) -> Run:
        with quiet():
            program = torch.export.load(path).module()

        def run(given: Sequence[Tensor]) -> list[Tensor]:
            with torch.no_grad():
                return leaves_of(program(*given))
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
