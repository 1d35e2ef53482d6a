"""What a classifier is trained to answer, as plain checked values. Imports no torch."""
from dataclasses import dataclass, field

from vitrail.data.settings import check_choice, check_number

KINDS = ("none", "soft", "hard")


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
        check_number("mixup", self.mixup, 0, 1000)
        check_number("cutmix", self.cutmix, 0, 1000)
        check_number("the share of mixed pairs", self.probability, 0, 1)
        check_number("the share of cutmix", self.switch, 0, 1)

    @property
    def on(self) -> bool:
        return (self.mixup > 0 or self.cutmix > 0) and self.probability > 0


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """How much a student listens to a teacher (DeiT, arXiv:2012.12877, section 4).

    kind: "none", "soft" (equation 2) or "hard" (equation 3). alpha: the weight of the teacher's term, beside
    1 - alpha for the labels; equation 3 has 0.5, and the paper uses 0.1 for soft. temperature: of soft
    distillation alone, 0.01 at least; the paper uses 3. Raises SettingsError for a value out of range.
    """

    kind: str = "none"
    alpha: float = 0.5
    temperature: float = 3.0

    def __post_init__(self) -> None:
        check_choice("distillation", self.kind, KINDS)
        check_number("the distillation's alpha", self.alpha, 0, 1)
        check_number("the distillation's temperature", self.temperature, 0.01, 1000)

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
        check_number("label smoothing", self.smoothing, 0, 1)
