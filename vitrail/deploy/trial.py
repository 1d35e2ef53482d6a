"""A model beside its optimised copies on real images: what each costs, and how far its answers move."""
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from vitrail.core.errors import ExportError
from vitrail.core.task import task_of
from vitrail.deploy.optimize import Optimised, Precision, Report, apart, optimize
from vitrail.deploy.structure import leaves_of, rebuild
from vitrail.measure.timing import interleaved


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One precision beside the plain model.

    seconds: the median of a batch. ratio: the plain model's time over this one's, the median of the rounds' own ratios,
    and its quartiles. difference: the largest of any output on any sample, as a share of that output's range.
    agreement: the share of samples with the same answer, as the task has it. refused: why there is no such copy; then
    the rest says nothing.
    """

    precision: str
    batch: int
    samples: int
    seconds: float = 0.0
    ratio: float = 0.0
    quartiles: tuple[float, float] = (0.0, 0.0)
    difference: float = 0.0
    agreement: float = 0.0
    report: Report | None = None
    refused: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def trials(model: nn.Module, inputs: Sequence[Tensor], precisions: Sequence[Precision], *, batch: int = 8,
           rounds: int = 20) -> tuple[float, list[Trial]]:
    """Median seconds of the plain model on a batch, and a trial of each precision, all timed in turns in this process.

    inputs: the tensors of K samples, as the model takes them; batches are filled up from their start. They calibrate
    int8.
    """
    model = model.eval()
    count = len(inputs[0])
    groups = [[leaf[torch.arange(start, start + batch) % count] for leaf in inputs] for start in range(0, count, batch)]
    plain = _all(model, groups, count)
    agreement_of = task_of(model.config).agreement
    made: dict[str, Optimised] = {}
    refused: dict[str, str] = {}
    for precision in precisions:
        try:
            made[precision] = optimize(model, groups[0], precision=precision,
                                       calibration=groups if precision == "int8" else None)
        except ExportError as e:
            refused[precision] = str(e)
    sides = {"plain": model, **made}
    times = interleaved({name: partial(side, *groups[0]) for name, side in sides.items()}, rounds=rounds,
                        device=torch.device("cpu"))
    found = []
    for precision in precisions:
        trial = Trial(precision=precision, batch=batch, samples=count, refused=refused.get(precision, ""))
        if precision in made:
            others = _all(made[precision], groups, count)
            difference, _ = apart(plain, others)
            agreement = agreement_of(plain, others) if agreement_of else float("nan")
            ratio, *quartiles = times["plain"].over(times[precision])
            trial = Trial(precision=precision, batch=batch, samples=count, seconds=times[precision].median,
                          ratio=ratio, quartiles=(quartiles[0], quartiles[1]), difference=difference,
                          agreement=agreement, report=made[precision].report)
        found.append(trial)
    return times["plain"].median, found


@torch.inference_mode()
def _all(model: nn.Module, groups: Sequence[Sequence[Tensor]], count: int) -> Any:
    """The outputs of all batches, as one of so many samples."""
    outputs = [model(*group) for group in groups]
    joined = [torch.cat(leaves)[:count] for leaves in zip(*map(leaves_of, outputs), strict=True)]
    return rebuild(outputs[0], joined)
