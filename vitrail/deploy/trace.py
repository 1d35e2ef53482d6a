"""From a model to a program without Python: `torch.export`, for open or fixed batches and sizes."""
import copy
import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from vitrail.core.errors import ExportError
from vitrail.nn import Attend, Windows

NOISY = ("torch.onnx", "torch.export", "torch._export", "torch.fx", "torch._dynamo", "onnxscript", "onnx_ir", "onnx")


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


def trace(model: nn.Module, example: Tensor, *, batch: bool, size: bool) -> ExportedProgram:
    """The program of image (B, 3, H, W) -> logits, with the batch and the size left open where said.

    Raises ExportError where the form does not allow it.
    """
    if size and any(isinstance(getattr(part, "groups", None), Windows) for part in model.modules()):
        raise ExportError("windows are laid out for one size of image, and which ones are shifted and padded depends "
                          "on it: this model cannot be exported for every size. Export one file a size, size=(h, w)")
    open_ = {axis: Dim.DYNAMIC for axis, wanted in ((0, batch), (2, size), (3, size)) if wanted}
    try:
        with quiet(), torch.no_grad():
            return torch.export.export(model, (example,), dynamic_shapes=(open_,), strict=False)
    except Exception as e:                                      # the tracer raises errors of many kinds
        raise ExportError(f"torch.export cannot trace this model{' for every size' if size else ''}: "
                          f"{_first_line(e)}") from e


def _first_line(e: BaseException) -> str:
    return next((line.strip() for line in str(e).splitlines() if line.strip()), type(e).__name__)[:300]
