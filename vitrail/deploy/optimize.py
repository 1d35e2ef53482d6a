"""`vitrail.optimize`: the same answers, sooner. The graph of a model is rewritten, so that any model can be given."""
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, NoReturn

import torch
from torch import Tensor, fx, nn

from vitrail.core.errors import ExportError, SettingsError
from vitrail.deploy.fold import folded
from vitrail.deploy.native import build
from vitrail.deploy.plans import attention, convolutions, depthwise, fuse, gpu, int8, moves, norms, slices
from vitrail.deploy.plans.graph import fold_constants, microbatch, module, simplify, traced
from vitrail.deploy.plans.program import Program
from vitrail.deploy.plans.ranges import Calibration, calibration_of
from vitrail.deploy.structure import Flat, leaves_of, names_of, rebuild

Precision = Literal["fp32", "bf16", "int8"]
BOUNDS: dict[str, float] = {"fp32": 1e-4, "bf16": 2e-2, "int8": 1e-1}    # of the range of each output
PLANS = 4                                                   # shapes of batches that are kept ready
Shapes = tuple[tuple[int, ...], ...]
Plan = Callable[..., Any]


@dataclass(kw_only=True)
class Report:
    """What was rewritten, how often, and how far the answers moved.

    microbatch: how many samples of the example's batch at once: more would not stay in the processor's caches.
    difference: the largest of any output on the example, as a share of that output's range.
    calibrated: on how many samples, in int8.
    stayed: in int8, the linear layers whose answers would lose too much, by their weights' names, and the
    signal-to-noise ratio that they would have had, in dB.
    """

    precision: str
    rewritten: dict[str, int] = field(default_factory=dict)
    left: str = ""                      # why the model runs as it is, where it does
    microbatch: int = 0
    difference: float = 0.0
    calibrated: int = 0
    stayed: dict[str, float] = field(default_factory=dict)


class Gone(nn.Module):
    """In the place of plain weights that were let go."""

    def forward(self, *args: object) -> NoReturn:
        raise ExportError("this optimised model let its plain weights go, and runs its plans alone: make it with "
                          "keep=True")


class Optimised(nn.Module):
    """A model for inference, with a plan for each shape of inputs that it has met; new shapes cost a moment.

    It is called as the model is, and answers with the same structure. After `drop_weights` it keeps the plans alone,
    and answers batches of any count of samples of their sizes `in_parts`. config: the model's own, where it has one.
    """

    def __init__(self, model: nn.Module, precision: Precision, calibration: Calibration | None = None):
        super().__init__()
        self.model = model
        self.config = getattr(model, "config", None)
        self.precision = precision
        self.calibration = calibration
        self.report = Report(precision=precision)
        self._plans: dict[Shapes, Plan] = {}
        self._like: Any = None                      # an output, for its structure
        self.eval().requires_grad_(False)

    def forward(self, *inputs: Tensor) -> Any:
        plan = self._plans.get(_shapes(inputs))
        if plan is None:
            if isinstance(self.model, Gone):
                return self.in_parts(*inputs)
            plan = self.plan(*inputs)
        with torch.inference_mode():
            return self._structured(plan(*inputs))

    def _structured(self, answer: Any) -> Any:
        """A plan's tensors as the model answers them."""
        if isinstance(answer, Tensor) or self._like is None:
            return answer
        return rebuild(self._like, leaves_of(answer))

    def in_parts(self, *inputs: Tensor) -> Any:
        """Answers by the plan of the largest batch of such inputs, of any count of samples, the last part filled up.
        Raises ExportError where there is no plan for their size."""
        sizes = tuple(size[1:] for size in _shapes(inputs))
        counts = [shapes[0][0] for shapes in self._plans if tuple(size[1:] for size in shapes) == sizes]
        if not counts:
            known = ", ".join(sorted({" and ".join(map(_by, shapes)) for shapes in self._plans}))
            raise ExportError(f"these inputs have {' and '.join(map(_by, _shapes(inputs)))} numbers a sample, and the "
                              f"plans are for {known}")
        return in_parts(self, max(counts), *inputs)

    def profile(self, *inputs: Tensor, rounds: int = 10) -> dict[str, float]:
        """Where the time of inputs, of no more than are taken at once, goes: the median seconds that each native kernel
        and each operation of torch's takes in all, called one by one, by their names.
        Raises ExportError where the plan for such inputs is none that runs without Python."""
        self(*inputs)
        plan = self._plans[_shapes(inputs)]
        if isinstance(plan, partial):
            raise ExportError(f"these {len(inputs[0])} samples are taken in parts: give {self.report.microbatch}")
        if not isinstance(plan, Program):
            raise ExportError("only a plan that runs without Python tells what its parts take, and native kernels are "
                              f"{self.report.left or build.found()[1]}")
        found: list[dict[str, float]] = [{} for _ in range(rounds)]
        for times in found:
            plan(*inputs, times=times)
        return {name: statistics.median(times[name] for times in found) for name in found[0]}

    def drop_weights(self) -> None:
        """Lets the plain weights go, of which the plans hold packed copies."""
        self.model = Gone()

    def plan(self, *inputs: Tensor) -> Plan:
        """Makes the plan for inputs of these shapes."""
        plan: Plan = self.model
        if self._like is None:
            with torch.inference_mode():
                self._like = self.model(*inputs)
        self.report.rewritten, self.report.stayed = {}, {}
        try:
            if gpu.there(inputs):
                plan = gpu.compiled(Flat(self.model).eval(), inputs, self.precision)
                self.report.rewritten, self.report.microbatch = {"compiled as a whole": 1}, len(inputs[0])
            else:
                graph = planned(self.model, inputs, self.precision, self.report, self.calibration)
                plan = recorded(graph, [leaf[:self.report.microbatch] for leaf in inputs], self.report)
            if self.report.microbatch < len(inputs[0]):
                plan = partial(in_parts, plan, self.report.microbatch)
            self.report.calibrated = self.calibration.count if self.calibration else 0
        except (ExportError, AttributeError, IndexError, RuntimeError, TypeError, ValueError) as e:  # it runs as it is
            self.report.rewritten, self.report.stayed, self.report.left = {}, {}, str(e) or type(e).__name__
        if len(self._plans) >= PLANS:
            self._plans.pop(next(iter(self._plans)))
        self._plans[_shapes(inputs)] = plan
        return plan


def optimize(model: nn.Module, example: Any, *, precision: Precision = "fp32",
             calibration: Iterable[Any] | None = None, keep: bool = True) -> Optimised:
    """A copy of a model that answers inputs of the example's shapes like the model, faster, and others as well. It is
    made for where the example lies: the processor, or a CUDA GPU, for which it is compiled and recorded as a CUDA graph.

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
    if not inputs or len({len(leaf) if leaf.ndim else 0 for leaf in inputs}) != 1:
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
    """The largest difference of any output tensor, as a share of the range of the first one's, and that tensor's name."""
    worst = (0.0, "output")
    for name, one, two in zip(names_of(output, "output"), leaves_of(output), leaves_of(other), strict=True):
        scale = float(one.double().max() - one.double().min())
        share = float((one.double() - two.double()).abs().max()) / scale if scale else 0.0
        if share > worst[0] or share != share:
            worst = (share, name)
    return worst


def in_parts(plan: Plan, count: int, *inputs: Tensor) -> Any:
    """The answers to a batch that is given to a plan so many samples at a time; the last part is filled up."""
    answers: list[list[Tensor]] = []
    answer: Any = None
    for parts in zip(*(leaf.split(count) for leaf in inputs), strict=True):
        size = len(parts[0])
        short = count - size
        filled = [torch.cat([part, part[:1].expand(short, *part.shape[1:])]) if short else part for part in parts]
        answer = plan(*filled)
        answers.append([leaf[:size] for leaf in leaves_of(answer)])
    joined = answers[0] if len(answers) == 1 else [torch.cat(leaves) for leaves in zip(*answers, strict=True)]
    return rebuild(answer, joined)


def _shapes(inputs: Sequence[Tensor]) -> Shapes:
    return tuple(tuple(leaf.shape) for leaf in inputs)


def _by(shape: tuple[int, ...]) -> str:
    """A sample's sides: 3 x 224 x 224."""
    return " x ".join(map(str, shape[1:]))


def _answers(model: nn.Module, inputs: Sequence[Tensor]) -> Any:
    """The model's own, as in evaluation."""
    training = [part for part in model.modules() if part.training]
    try:
        return model.eval()(*inputs)
    finally:
        for part in training:
            part.training = True


def planned(model: nn.Module, inputs: Sequence[Tensor], precision: Precision, report: Report,
            calibration: Calibration | None = None) -> fx.GraphModule:
    """A model's graph for inputs of these shapes, or for `report.microbatch` samples of them, rewritten. `report` gets
    what was, and how often."""
    if precision == "bf16" and fuse.available() and not fuse.bfloat16_available():
        raise ExportError("this processor has no products of bfloat16 (AVX-512 or AVX-NE-CONVERT): fp32")
    flat = Flat(model).eval()
    graph, constants = traced(flat, *inputs)
    report.microbatch = microbatch(graph, 4 if precision == "fp32" else 2)
    if report.microbatch < len(inputs[0]):
        graph, constants = traced(flat, *(leaf[:report.microbatch] for leaf in inputs))
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


def recorded(plan: fx.GraphModule, inputs: Sequence[Tensor], report: Report) -> Plan:
    """A plan as a program, where there are native kernels that it calls."""
    if build.library() is None:
        return plan
    try:
        program = Program(plan, *inputs)
    except ExportError:                                 # one of its calls answers with more than tensors
        return plan
    report.rewritten["native calls without Python"] = program.natives
    return program
