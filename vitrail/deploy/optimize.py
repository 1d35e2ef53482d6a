"""`vitrail.optimize`: the same answers, sooner. The graph of a model is rewritten, so that any model can be given."""
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vitrail.core.errors import ExportError, SettingsError
from vitrail.deploy import gpu
from vitrail.deploy.cpu import int8
from vitrail.deploy.cpu.compile import Precision, Report
from vitrail.deploy.cpu.ranges import calibration_of
from vitrail.deploy.fold import folded
from vitrail.deploy.optimised import Optimised
from vitrail.deploy.structure import leaves_of, names_of

__all__ = ["BOUNDS", "Optimised", "Precision", "Report", "apart", "optimize"]

BOUNDS: dict[str, float] = {"fp32": 1e-4, "bf16": 2e-2, "int8": 1e-1}    # of the range of each output


def optimize(model: nn.Module, example: Any, *, precision: Precision = "fp32",
             calibration: Iterable[Any] | None = None, keep: bool = True) -> Optimised:
    """A copy of a model that answers inputs of the example's shapes like the model, faster, and others as well. It is
    made for where the example lies: the processor, or a CUDA GPU, for which it is compiled and recorded as a CUDA
    graph.

    example: what the model is called with: a tensor, such as images (B, 3, H, W), or a structure of tensors whose first
    axis is the batch (see `deploy.structure`).
    precision: of weights and all between them; in int8 of the linear layers that bear it. The copy is compared with
    the model on the example: every output must be within 1e-4 of the range of its numbers in fp32, 2e-2 in bf16, and
    1e-1 in int8; `report` says what was rewritten.
    calibration: batches like the example, which show int8 what numbers to expect; the example does where there are
    none.
    keep: the plain weights too, of which plans for other shapes are made. Without them the copy holds no more than a
    plain model, and answers inputs of the example's size, in parts of its batch.
    Raises SettingsError on another precision, ExportError for what cannot be run on the example, and where the answers
    differ by more.
    """
    if precision not in BOUNDS:
        raise SettingsError(f"precision={precision!r} is none of {', '.join(BOUNDS)}")
    if not isinstance(model, nn.Module):
        raise ExportError(f"optimize takes a model, a torch.nn.Module, and this is a {type(model).__name__}")
    inputs = leaves_of(example)
    if not inputs or any(leaf.ndim == 0 for leaf in inputs) or len({len(leaf) for leaf in inputs}) != 1:
        raise ExportError("an example is a batch: tensors whose first axes are equally long, and not of the shapes "
                          f"{', '.join(str(tuple(leaf.shape)) for leaf in inputs)}")
    if precision == "int8" and gpu.there(inputs):
        raise SettingsError("int8 is for the processor, and the example is on a GPU: take bf16 there")
    if calibration is not None and precision != "int8":
        raise SettingsError(f"only int8 is calibrated, and this is {precision}: leave calibration out")
    shown = calibration_of(calibration, inputs) if precision == "int8" else None
    unable = shown is not None and not int8.available()
    made = Optimised(folded(model, inputs), precision, None if unable else shown)
    if unable:
        made.report.left = "int8 needs oneDNN's quantised products and a processor that adds them up in 32 bits: fp32"
    with torch.inference_mode():
        output = _answers(model, inputs)
        made.report.difference, worst = apart(output, made(*inputs))
    if not made.report.difference <= BOUNDS[precision]:                 # nan is not
        raise ExportError(f"the optimised model's {worst} is {made.report.difference:.2g} of its range away from the "
                          f"model's, and {BOUNDS[precision]:g} is allowed in {precision}")
    if not keep and not made.report.left:               # a model that runs as it is needs its weights
        made.drop_weights()
    return made


def apart(output: Any, other: Any) -> tuple[float, str]:
    """The largest difference of any output tensor, as a share of the range of the first one's, and that tensor's
    name."""
    worst = (0.0, "output")
    for name, one, two in zip(names_of(output, "output"), leaves_of(output), leaves_of(other), strict=True):
        scale = float(one.double().max() - one.double().min())
        share = float((one.double() - two.double()).abs().max()) / scale if scale else 0.0
        if share > worst[0] or share != share:
            worst = (share, name)
    return worst


def _answers(model: nn.Module, inputs: Sequence[Tensor]) -> Any:
    """The model's own, as in evaluation."""
    training = [part for part in model.modules() if part.training]
    try:
        return model.eval()(*inputs)
    finally:
        for part in training:
            part.training = True
