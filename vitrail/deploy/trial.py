"""A model beside its optimised copies on real images: what each costs, and how far its answers move."""
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import cycle, islice
from typing import Any

import torch
from torch import Tensor

from vitrail.core.errors import ExportError
from vitrail.deploy.optimize import Optimised, Precision, Report, optimize
from vitrail.measure.timing import interleaved
from vitrail.tasks.classification.model import Classifier


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One precision beside the plain model.

    seconds: the median of a batch. ratio: the plain model's time over this one's, the median of the rounds' own ratios,
    and its quartiles. difference: the largest of any logit on any image, as a share of the range of the plain model's
    logits. agreement: the share of images with the same first answer. refused: why there is no such copy; then the
    rest says nothing.
    """

    precision: str
    batch: int
    images: int
    seconds: float = 0.0
    ratio: float = 0.0
    quartiles: tuple[float, float] = (0.0, 0.0)
    difference: float = 0.0
    agreement: float = 0.0
    report: Report | None = None
    refused: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class _Answers:
    """Of the plain model, on all images."""

    logits: Tensor
    scale: float = field(init=False)

    def __post_init__(self) -> None:
        self.scale = float(self.logits.max() - self.logits.min())

    def apart(self, others: Tensor) -> tuple[float, float]:
        """(the largest difference over the range, the share of same first answers)"""
        largest = float((self.logits - others).abs().max()) / self.scale if self.scale else 0.0
        return largest, float((self.logits.argmax(-1) == others.argmax(-1)).float().mean())


def trials(model: Classifier, pixels: Tensor, precisions: Sequence[Precision], *, batch: int = 8,
           rounds: int = 20) -> tuple[float, list[Trial]]:
    """Median seconds of the plain model on a batch, and a trial of each precision, all timed in turns in this process.

    pixels: (K, 3, H, W), as the model takes them; batches are filled up from their start. They calibrate int8.
    """
    model = model.eval()
    groups = [torch.stack(list(islice(cycle(pixels), i, i + batch))) for i in range(0, len(pixels), batch)]
    plain = _Answers(_all(model, groups, len(pixels)))
    made: dict[str, Optimised] = {}
    refused: dict[str, str] = {}
    for precision in precisions:
        try:
            made[precision] = optimize(model, groups[0], precision=precision,
                                       calibration=groups if precision == "int8" else None)
        except ExportError as e:
            refused[precision] = str(e)
    sides = {"plain": model, **made}
    times = interleaved({name: partial(side, groups[0]) for name, side in sides.items()}, rounds=rounds,
                        device=torch.device("cpu"))
    found = []
    for precision in precisions:
        trial = Trial(precision=precision, batch=batch, images=len(pixels), refused=refused.get(precision, ""))
        if precision in made:
            difference, agreement = plain.apart(_all(made[precision], groups, len(pixels)))
            ratio, *quartiles = times["plain"].over(times[precision])
            trial = Trial(precision=precision, batch=batch, images=len(pixels), seconds=times[precision].median,
                          ratio=ratio, quartiles=(quartiles[0], quartiles[1]), difference=difference,
                          agreement=agreement, report=made[precision].report)
        found.append(trial)
    return times["plain"].median, found


@torch.inference_mode()
def _all(model: Classifier, groups: list[Tensor], count: int) -> Tensor:
    return torch.cat([model(group) for group in groups])[:count].float()
