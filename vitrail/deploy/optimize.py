"""`vitrail.optimize`: the same answers, sooner. The graph of a model is rewritten, so that any model can be given."""
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, fx

from vitrail.core.errors import ExportError, SettingsError
from vitrail.deploy.fold import folded
from vitrail.deploy.plans import fuse, moves, slices
from vitrail.deploy.plans.graph import fold_constants, module, simplify, traced
from vitrail.tasks.classification.model import Classifier

Precision = Literal["fp32", "bf16"]
BOUNDS: dict[str, float] = {"fp32": 1e-4, "bf16": 2e-2}     # of the range of the model's logits
PLANS = 4                                                   # shapes of batches that are kept ready


@dataclass(kw_only=True)
class Report:
    """What was rewritten, how often, and how far the answers moved.

    difference: the largest of any logit on the example, as a share of the range of the model's logits.
    """

    precision: str
    rewritten: dict[str, int] = field(default_factory=dict)
    left: str = ""                      # why the model runs as it is, where it does
    difference: float = 0.0


class Optimised(Classifier):
    """A classifier for inference, with a plan for each shape of batch that it has met; new shapes cost a moment."""

    def __init__(self, model: Classifier, precision: Precision):
        super().__init__(model.backbone, model.head, model.identity)
        self.precision = precision
        self.report = Report(precision=precision)
        self._plans: dict[tuple[int, ...], Callable[[Tensor], Tensor]] = {}
        self.eval().requires_grad_(False)

    def forward(self, image: Tensor) -> Tensor:
        plan = self._plans.get(tuple(image.shape)) or self.plan(image)
        with torch.inference_mode():
            return plan(image)

    def plan(self, image: Tensor) -> Callable[[Tensor], Tensor]:
        """Makes the plan for images of this shape."""
        made: Callable[[Tensor], Tensor] = super().forward
        self.report.rewritten = {}
        try:
            made = planned(self, image, self.precision, self.report.rewritten)
        except (ExportError, RuntimeError, TypeError, ValueError, IndexError) as e:     # it runs as it is, and says so
            self.report.rewritten, self.report.left = {}, str(e) or type(e).__name__
        if len(self._plans) >= PLANS:
            self._plans.pop(next(iter(self._plans)))
        self._plans[tuple(image.shape)] = made
        return made


def optimize(model: Classifier, example: Tensor, *, precision: Precision = "fp32") -> Optimised:
    """A copy of a classifier that answers images (B, 3, H, W) like the example's faster, and others as well.

    precision: of weights and all between them. The copy is compared with the model on the example, to be within 1e-4
    of the range of its logits in fp32, and within 2e-2 in bf16; `report` says what was rewritten.
    Raises SettingsError on another precision, ExportError for what is no classifier of images or cannot be run on the
    example, and where the answers differ by more.
    """
    if precision not in BOUNDS:
        raise SettingsError(f"precision={precision!r} is none of {', '.join(BOUNDS)}")
    if not isinstance(model, Classifier):
        raise ExportError(f"optimize takes a classifier of images, as create_model makes them, and this is a "
                          f"{type(model).__name__}")
    if example.ndim != 4:
        raise ExportError(f"an example is a batch of images (B, 3, H, W), and this one has the shape "
                          f"{tuple(example.shape)}")
    copied = folded(model, example)
    assert isinstance(copied, Classifier)
    made = Optimised(copied, precision)
    with torch.inference_mode():
        there, here = _answers(model, example), made(example)
    scale = float(there.max() - there.min())
    made.report.difference = float((there - here).abs().max()) / scale if scale else 0.0
    if not made.report.difference <= BOUNDS[precision]:                 # nan is not
        raise ExportError(f"the optimised model's logits are {made.report.difference:.2g} of their range away from the "
                          f"model's, and {BOUNDS[precision]:g} is allowed in {precision}")
    return made


def _answers(model: Classifier, image: Tensor) -> Tensor:
    """The model's own, as in evaluation."""
    training = [part for part in model.modules() if part.training]
    try:
        found: Tensor = model.eval()(image)
        return found
    finally:
        for part in training:
            part.training = True


class _Eager(torch.nn.Module):
    """The classifier's own forward, for the tracer."""

    def __init__(self, model: Classifier):
        super().__init__()
        self.backbone, self.head = model.backbone, model.head

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.backbone(image))


def planned(model: Classifier, image: Tensor, precision: Precision, told: dict[str, int]) -> fx.GraphModule:
    """A model's graph for images of this shape, rewritten. `told` gets what was, and how often."""
    graph, constants = traced(_Eager(model).eval(), image)
    told["computed beforehand"] = fold_constants(graph, constants)
    simplify(graph, constants)
    told["moves of tokens"] = moves.gather(graph, constants)
    told["cut away"] = slices.sink(graph, constants)
    if fuse.available():
        told["convolutions as linear layers"] = fuse.convolutions_as_linears(graph, constants)
        told["linear layers before moves"] = fuse.linears_before_gathers(graph, constants)
        if precision == "bf16":
            fuse.to_bfloat16(graph, constants)
        told.update(fuse.pack_linears(graph, constants))
        told.update(fuse.pack_convolutions(graph, constants))
    elif precision == "bf16":
        fuse.to_bfloat16(graph, constants)
    return module(graph, constants)
