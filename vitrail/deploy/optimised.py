"""A model for inference: plans for the shapes that it has met."""
import statistics
from collections.abc import Sequence
from functools import partial
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from vitrail.core.errors import ExportError
from vitrail.deploy import gpu
from vitrail.deploy.cpu.compile import Plan, Precision, Report, compiled
from vitrail.deploy.cpu.native import build
from vitrail.deploy.cpu.program import Program
from vitrail.deploy.cpu.ranges import Calibration
from vitrail.deploy.structure import Flat, leaves_of, rebuild

PLANS = 4                                                   # shapes of batches that are kept ready
Shapes = tuple[tuple[int, ...], ...]


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
                plan = compiled(self.model, inputs, self.precision, self.report, self.calibration)
            if self.report.microbatch < len(inputs[0]):
                plan = partial(in_parts, plan, self.report.microbatch)
            self.report.calibrated = self.calibration.count if self.calibration else 0
        except (ExportError, AttributeError, IndexError, RuntimeError, TypeError, ValueError) as e:  # it runs as it is
            self.report.rewritten, self.report.stayed, self.report.left = {}, {}, str(e) or type(e).__name__
        if len(self._plans) >= PLANS:
            self._plans.pop(next(iter(self._plans)))
        self._plans[_shapes(inputs)] = plan
        return plan


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
