"""What a classifier is trained to answer, as plain checked values. Imports no torch."""
import math
from dataclasses import dataclass, field

from vitrail.core.errors import SettingsError, nearest

KINDS = ("none", "soft", "hard")


def within(name: str, value: object, low: float, high: float, *, above: bool = False) -> None:
    """Raises SettingsError unless ``value`` is a finite number in [low, high], or in (low, high] with ``above``."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not number or not low <= value <= high or (above and value == low):  # type: ignore[operator]
        opening = "(" if above else "["
        raise SettingsError(f"{name} must be a number in {opening}{low:g}, {high:g}], and it is {value!r}")


@dataclass(frozen=True, kw_only=True)
class Mixing:
    """Mixup (arXiv:1710.09412) and CutMix (arXiv:1905.04899) of pairs of training images.

    mixup, cutmix: alpha of the Beta(alpha, alpha) from which a pair's share is drawn; 0 turns the kind off.
    probability: the share of pairs that are mixed at all. switch: of those, the share that is cut rather than
    blended, where both kinds are on. Raises SettingsError for a value out of range.
    """

    mixup: float = 0.0
    cutmix: float = 0.0
    probability: float = 1.0
    switch: float = 0.5

    def __post_init__(self) -> None:
        within("mixup", self.mixup, 0, 1000)
        within("cutmix", self.cutmix, 0, 1000)
        within("the mixing probability", self.probability, 0, 1)
        within("the switch from mixup to cutmix", self.switch, 0, 1)

    @property
    def on(self) -> bool:
        return (self.mixup > 0 or self.cutmix > 0) and self.probability > 0


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """How much a student listens to a teacher (DeiT, arXiv:2012.12877, section 4).

    kind: "none", "soft" (equation 2) or "hard" (equation 3). alpha: the weight of the teacher's term, beside
    1 - alpha for the labels; equation 3 has 0.5, and the paper uses 0.1 for soft. temperature: of soft
    distillation alone; the paper uses 3. Raises SettingsError for a value out of range.
    """

    kind: str = "none"
    alpha: float = 0.5
    temperature: float = 3.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            hint = nearest(str(self.kind), KINDS)
            raise SettingsError(f"distillation must be one of {', '.join(KINDS)}, and it is {self.kind!r}.{hint}")
        within("the distillation's alpha", self.alpha, 0, 1)
        within("the distillation's temperature", self.temperature, 0, 1000, above=True)

    @property
    def on(self) -> bool:
        return self.kind != "none"


@dataclass(frozen=True, kw_only=True)
class Objective:
    """Everything that shapes the loss. smoothing: the share of a label given evenly to all classes."""

    smoothing: float = 0.1
    mixing: Mixing = field(default_factory=Mixing)
    distillation: Distillation = field(default_factory=Distillation)

    def __post_init__(self) -> None:
        within("label smoothing", self.smoothing, 0, 1)
