"""From a model to a program without Python: `torch.export`, for open or fixed batches and sizes."""
import copy
import io
import logging
import operator
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import Dim, ExportedProgram
from torch.export.graph_signature import InputKind, InputSpec, TensorArgument
from torch.fx.experimental import proxy_tensor

from vitrail.core.errors import ExportError
from vitrail.nn import Attend, Windows

NOISY = ("torch.onnx", "torch.export", "torch._export", "torch.fx", "torch._dynamo", "onnxscript", "onnx_ir", "onnx")
LARGEST = 64 * 2**20    # bytes of a constant that is computed beforehand


@contextmanager
def quiet() -> Iterator[None]:
    """Within: the exporters' warnings and progress, which are not for users, go nowhere."""
    loggers = [logging.getLogger(name) for name in NOISY]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def still(model: nn.Module) -> nn.Module:
    """The model in evaluation mode on the CPU; a copy where it is not so. Raises ExportError unless it is float32."""
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            raise ExportError(f"{name} is {str(tensor.dtype).removeprefix('torch.')}: export a float32 model, "
                              "model.float(), and let the machine it runs on choose its precision")
    ready = not any(part.training for part in model.modules())
    if ready and all(tensor.device.type == "cpu" for tensor in model.state_dict().values()):
        return model
    return copy.deepcopy(model).cpu().eval()


@contextmanager
def in_the_open(model: nn.Module) -> Iterator[None]:
    """Within: attention is written out as products and a softmax, which every runtime knows, not as one kernel."""
    attends = [part for part in model.modules() if isinstance(part, Attend)]
    before = [part.fused for part in attends]
    for part in attends:
        part.fused = False
    try:
        yield
    finally:
        for part, fused in zip(attends, before, strict=True):
            part.fused = fused


def trace(model: nn.Module, example: Sequence[Tensor], *, axes: Sequence[Mapping[int, str]] = (),
          open_size: bool = False) -> ExportedProgram:
    """The program of a model that takes these tensors and answers with tensors, with these axes of each left open.

    open_size: whether sizes are among them. Raises ExportError where the form does not allow it.
    """
    if open_size and any(isinstance(getattr(part, "groups", None), Windows) for part in model.modules()):
        raise ExportError("windows are laid out for one size of image, and which ones are shifted and padded depends "
                          "on it: this model cannot be exported for every size. Export one file a size, size=(h, w)")
    open_axes = [dict.fromkeys(named, Dim.DYNAMIC) for named in axes] or [{} for _ in example]
    try:
        with quiet(), torch.no_grad():
            return torch.export.export(model, tuple(example), dynamic_shapes=(tuple(open_axes),), strict=False)
    except Exception as e:                                      # the tracer raises errors of many kinds
        raise ExportError(f"torch.export cannot trace this model{' for every size' if open_size else ''}: "
                          f"{_first_line(e)}") from e


@torch.no_grad()
def settled(program: ExportedProgram) -> ExportedProgram:
    """The program with what depends on no image computed beforehand: tables at this size, masks, biases of places. What
    would be larger than LARGEST is left to the runtime."""
    program = program.run_decompositions({})        # nothing is taken apart, but no call changes a tensor any more
    graph, signature = program.graph, program.graph_signature
    named = {**signature.inputs_to_parameters, **signature.inputs_to_buffers,
             **signature.inputs_to_lifted_tensor_constants}
    tensors = {**program.state_dict, **program.constants}
    known: dict[fx.Node, Any] = {node: tensors[named[node.name]] for node in graph.find_nodes(op="placeholder")
                                 if node.name in named}
    first = next(iter(graph.nodes))
    for node, found in follows(graph, known).items():
        with graph.inserting_before(first):
            given = graph.placeholder(f"folded_{node.name}")
        given.meta["val"] = node.meta["val"]
        node.replace_all_uses_with(given)
        at = list(graph.find_nodes(op="placeholder")).index(given)
        signature.input_specs.insert(at, InputSpec(InputKind.CONSTANT_TENSOR, TensorArgument(given.name), given.name,
                                                   None))
        program.constants[given.name] = found.detach().contiguous()
    graph.eliminate_dead_code()
    program.graph_module.recompile()
    return program


@torch.no_grad()
def follows(graph: fx.Graph, known: dict[fx.Node, Any]) -> dict[fx.Node, Tensor]:
    """Computes what follows from nodes that are `known`, which gets it all. Answers with the tensors of those calls
    that something else reads."""
    for node in graph.nodes:
        if node.op == "call_function" and all(n in known for n in node.all_input_nodes) and certain(node):
            args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: known[n])
            found = node.target(*args, **kwargs)
            if not isinstance(found, Tensor) or found.nbytes <= LARGEST:
                known[node] = found
    return {node: found for node, found in known.items() if node.op == "call_function" and isinstance(found, Tensor)
            and any(user not in known for user in node.users)}


def forget() -> None:
    """Lets go what torch remembers of the models that it has traced: some 10 MB for each."""
    getattr(proxy_tensor, "_FAKE_TENSOR_ID_TO_PROXY_MAP_FOR_EXPORT", {}).clear()
    FakeTensorMode.cache_clear()


def certain(node: fx.Node) -> bool:
    """Whether a call answers alike at all times and changes nothing."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return node.target is operator.getitem
    return not schema.is_mutable and torch.Tag.nondeterministic_seeded not in node.target.tags     # type: ignore


def _first_line(e: BaseException) -> str:
    return next((line.strip() for line in str(e).splitlines() if line.strip()), type(e).__name__)[:300]
