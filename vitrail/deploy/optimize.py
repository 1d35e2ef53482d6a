"""`vitrail.optimize`: the same answers, sooner. The graph of a model is rewritten, so that any model can be given."""
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, NoReturn

import torch
from torch import Tensor, fx, nn

from vitrail.core.errors import ExportError, SettingsError
from vitrail.deploy.fold import folded
from vitrail.deploy.native import build
from vitrail.deploy.plans import attention, convolutions, depthwise, fuse, gpu, int8, moves, norms, slices
from vitrail.deploy.plans.graph import at_once, fold_constants, module, simplify, traced
from vitrail.deploy.plans.program import Program
from vitrail.deploy.plans.ranges import Calibration, calibration_of
from vitrail.tasks.classification.model import Classifier

Precision = Literal["fp32", "bf16", "int8"]
BOUNDS: dict[str, float] = {"fp32": 1e-4, "bf16": 2e-2, "int8": 1e-1}    # of the range of the model's logits
PLANS = 4                                                   # shapes of batches that are kept ready


@dataclass(kw_only=True)
class Report:
    """What was rewritten, how often, and how far the answers moved.

    at_once: how many images of the example's batch: more would not stay in the processor's caches.
    difference: the largest of any logit on the example, as a share of the range of the model's logits.
    calibrated: on how many images, in int8.
    stayed: in int8, the linear layers whose answers would lose too much, by their weights' names, and the
    signal-to-noise ratio that they would have had, in dB.
    """

    precision: str
    rewritten: dict[str, int] = field(default_factory=dict)
    left: str = ""                      # why the model runs as it is, where it does
    at_once: int = 0
    difference: float = 0.0
    calibrated: int = 0
    stayed: dict[str, float] = field(default_factory=dict)


class Gone(nn.Module):
    """In the place of plain weights that were let go."""

    def forward(self, *args: object) -> NoReturn:
        raise ExportError("this optimised model let its plain weights go, and runs its plans alone: make it with "
                          "keep=True")


class Optimised(Classifier):
    """A classifier for inference, with a plan for each shape of batch that it has met; new shapes cost a moment.

    After `forget` it keeps the plans alone, and answers batches of any count of images of their sizes `in_parts`.
    """

    def __init__(self, model: Classifier, precision: Precision, calibration: Calibration | None = None):
        super().__init__(model.backbone, model.head, model.config)
        self.precision, self.calibration = precision, calibration
        self.report = Report(precision=precision)
        self._plans: dict[tuple[int, ...], Callable[[Tensor], Tensor]] = {}
        self.eval().requires_grad_(False)

    def forward(self, image: Tensor) -> Tensor:
        plan = self._plans.get(tuple(image.shape))
        if plan is None:
            if isinstance(self.backbone, Gone):
                return self.in_parts(image)
            plan = self.plan(image)
        with torch.inference_mode():
            return plan(image)

    def in_parts(self, image: Tensor) -> Tensor:
        """Answers by the plan of the largest batch of such images, (B, 3, H, W) of any B, the last part filled up.
        Raises ExportError where there is no plan for their size."""
        counts = [count for count, *size in self._plans if size == list(image.shape[1:])]
        if not counts:
            known = ", ".join(sorted({f"{h} x {w}" for *_, h, w in self._plans}))
            given = " x ".join(map(str, image.shape[2:]))
            raise ExportError(f"these images have {given} pixels, and the plans are for {known}")
        return in_parts(self, max(counts), image)

    def profile(self, image: Tensor, rounds: int = 10) -> dict[str, float]:
        """Where the time of images (B, 3, H, W), of no more than are taken at once, goes: the median seconds that each
        native kernel and each operation of torch's takes in all, called one by one, by their names.
        Raises ExportError where the plan for such images is none that runs without Python."""
        self(image)
        plan = self._plans[tuple(image.shape)]
        if isinstance(plan, partial):
            raise ExportError(f"these {len(image)} images are taken in parts: give {self.report.at_once}")
        if not isinstance(plan, Program):
            raise ExportError("only a plan that runs without Python tells what its parts take, and native kernels are "
                              f"{self.report.left or build.found()[1]}")
        found: list[dict[str, float]] = [{} for _ in range(rounds)]
        for times in found:
            plan(image, times)
        return {name: statistics.median(times[name] for times in found) for name in found[0]}

    def forget(self) -> None:
        """Lets the plain weights go, of which the plans hold packed copies."""
        self.backbone, self.head = Gone(), Gone()

    def plan(self, image: Tensor) -> Callable[[Tensor], Tensor]:
        """Makes the plan for images of this shape."""
        made: Callable[[Tensor], Tensor] = super().forward
        self.report.rewritten, self.report.stayed = {}, {}
        try:
            if gpu.there(image):
                made = gpu.compiled(_Eager(self).eval(), image, self.precision)
                self.report.rewritten, self.report.at_once = {"compiled as a whole": 1}, len(image)
            else:
                plan = planned(self, image, self.precision, self.report, self.calibration)
                made = recorded(plan, image[:self.report.at_once], self.report)
            if self.report.at_once < len(image):
                made = partial(in_parts, made, self.report.at_once)
            self.report.calibrated = self.calibration.count if self.calibration else 0
        except (ExportError, AttributeError, IndexError, RuntimeError, TypeError, ValueError) as e:  # it runs as it is
            self.report.rewritten, self.report.stayed, self.report.left = {}, {}, str(e) or type(e).__name__
        if len(self._plans) >= PLANS:
            self._plans.pop(next(iter(self._plans)))
        self._plans[tuple(image.shape)] = made
        return made


def optimize(model: Classifier, example: Tensor, *, precision: Precision = "fp32",
             calibration: Iterable[Tensor] | None = None, keep: bool = True) -> Optimised:
    """A copy of a classifier that answers images (B, 3, H, W) like the example's faster, and others as well. It is made
    for where the example lies: the processor, or a CUDA GPU, for which it is compiled and recorded as a CUDA graph.

    precision: of weights and all between them; in int8 of the linear layers that bear it. The copy is compared with
    the model on the example, to be within 1e-4 of the range of its logits in fp32, 2e-2 in bf16, and 1e-1 in int8;
    `report` says what was rewritten.
    calibration: batches of images (B, 3, H, W) as the model takes them, which show int8 what numbers to expect; the
    example does where there are none.
    keep: the plain weights too, of which plans for other shapes are made. Without them the copy holds no more than a
    plain model, and answers images of the example's size, in parts of its batch.
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
    if precision == "int8" and gpu.there(example):
        raise SettingsError("int8 is for the processor, and the example is on a GPU: take bf16 there")
    if calibration is not None and precision != "int8":
        raise SettingsError(f"only int8 is calibrated, and this is {precision}: leave calibration out")
    shown = calibration_of(calibration, example) if precision == "int8" else None
    unable = shown is not None and not int8.available()
    copied = folded(model, example)
    assert isinstance(copied, Classifier)
    made = Optimised(copied, precision, None if unable else shown)
    if unable:
        made.report.left = "int8 needs oneDNN's quantised products and a processor that adds them up in 32 bits: fp32"
    with torch.inference_mode():
        there, here = _answers(model, example), made(example)
    scale = float(there.max() - there.min())
    made.report.difference = float((there - here).abs().max()) / scale if scale else 0.0
    if not made.report.difference <= BOUNDS[precision]:                 # nan is not
        raise ExportError(f"the optimised model's logits are {made.report.difference:.2g} of their range away from the "
                          f"model's, and {BOUNDS[precision]:g} is allowed in {precision}")
    if not keep and not made.report.left:               # a model that runs as it is needs its weights
        made.forget()
    return made


def in_parts(model: Callable[[Tensor], Tensor], count: int, image: Tensor) -> Tensor:
    """A model's answers to images (B, 3, H, W), that are given to it so many at a time; the last part is filled up."""
    found = []
    for part in image.split(count):
        short = count - len(part)
        filled = torch.cat([part, part[:1].expand(short, -1, -1, -1)]) if short else part
        found.append(model(filled)[:len(part)])
    return torch.cat(found)


def _answers(model: Classifier, image: Tensor) -> Tensor:
    """The model's own, as in evaluation."""
    training = [part for part in model.modules() if part.training]
    try:
        found: Tensor = model.eval()(image)
        return found
    finally:
        for part in training:
            part.training = True


class _Eager(nn.Module):
    """The classifier's own forward, for the tracer."""

    def __init__(self, model: Classifier):
        super().__init__()
        self.backbone, self.head = model.backbone, model.head

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.backbone(image))


def planned(model: Classifier, image: Tensor, precision: Precision, report: Report,
            calibration: Calibration | None = None) -> fx.GraphModule:
    """A model's graph for images of this shape, or for `report.at_once` of them, rewritten. `report` gets what was, and
    how often."""
    graph, constants = traced(_Eager(model).eval(), image)
    report.at_once = at_once(graph, 4 if precision == "fp32" else 2)
    if report.at_once < len(image):
        graph, constants = traced(_Eager(model).eval(), image[:report.at_once])
    told = report.rewritten
    told["computed beforehand"] = fold_constants(graph, constants)
    simplify(graph, constants)
    told["moves of tokens"] = moves.gather(graph, constants)
    told["cut away"] = slices.sink(graph, constants)
    chosen: dict[fx.Node, int8.Layer] = {}
    if fuse.available():
        told["convolutions as linear layers"] = convolutions.convolutions_as_linears(graph, constants)
        told["linear layers before moves"] = fuse.linears_before_gathers(graph, constants)
    if calibration is not None:
        told["norms with channels made alike"] = int8.calibrate(graph, constants, calibration)
        chosen = int8.choose(graph, constants, calibration.ranges, told, report.stayed)
    if precision == "bf16" or calibration is not None and attention.available():    # what lies between is fastest so
        fuse.to_bfloat16(graph, constants)
    told.update(attention.rewrite(graph, constants))
    told["lengths of vectors"] = norms.lengths(graph, constants)
    told["layer norm in a native kernel"] = norms.rewrite(graph, constants)
    told.update(depthwise.rewrite(graph, constants))
    if fuse.available():
        told.update(fuse.pack_linears(graph, constants, chosen))
        told.update(convolutions.pack_convolutions(graph, constants))
    if calibration is not None:
        told.update(int8.pack(graph, constants, chosen))
    return module(graph, constants)


def recorded(plan: fx.GraphModule, image: Tensor, report: Report) -> Callable[[Tensor], Tensor]:
    """A plan as a program, where there are native kernels that it calls."""
    if build.library() is None:
        return plan
    try:
        program = Program(plan, image)
    except ExportError:                                 # one of its calls answers with more than tensors
        return plan
    report.rewritten["native calls without Python"] = program.natives
    return program
