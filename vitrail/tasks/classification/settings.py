"""What `vitrail train` is told for classification, as plain checked values. Imports no torch."""
from dataclasses import dataclass
from typing import Literal

from vitrail.core.errors import SettingsError
from vitrail.core.settings import Checked, part, setting
from vitrail.data.settings import Augmentation, ImageData
from vitrail.training.model_settings import BackboneSettings
from vitrail.training.settings import RunSettings


@dataclass(frozen=True, kw_only=True)
class Mixing(Checked):
    """Mixup (arXiv:1710.09412) and CutMix (arXiv:1905.04899) of pairs of training images.

    mixup, cutmix: alpha of the Beta(alpha, alpha) from which a pair's share is drawn; 0 turns the kind off.
    probability: the share of pairs that are mixed at all. switch: of those, the share that is cut rather than
    blended, where both kinds are on. Raises SettingsError for a value out of range.
    """

    mixup: float = setting(0.0, low=0, high=1000, help="alpha of mixup; 0: none")
    cutmix: float = setting(0.0, low=0, high=1000, help="alpha of cutmix; 0: none")
    probability: float = setting(1.0, low=0, high=1, flag="mix_prob", help="share of pairs that are mixed at all")
    switch: float = setting(0.5, low=0, high=1, flag="mix_switch_prob", help="share of mixed pairs that are cut, where "
                                                                             "both kinds are on")

    @property
    def on(self) -> bool:
        return (self.mixup > 0 or self.cutmix > 0) and self.probability > 0


@dataclass(frozen=True, kw_only=True)
class Distillation(Checked):
    """How much a student listens to a teacher (DeiT, arXiv:2012.12877, section 4).

    kind: "none", "soft" (equation 2) or "hard" (equation 3). alpha: the weight of the teacher's term, beside
    1 - alpha for the labels; equation 3 has 0.5, and the paper uses 0.1 for soft. temperature: of soft
    distillation alone; the paper uses 3. Raises SettingsError for a value out of range.
    """

    kind: Literal["none", "soft", "hard"] = setting("none", flag="distillation", help="how it learns from its teacher")
    alpha: float = setting(0.5, low=0, high=1, help="weight of the teacher's term")
    temperature: float = setting(3.0, low=0.01, high=1000, help="of soft distillation")

    @property
    def on(self) -> bool:
        return self.kind != "none"


@dataclass(frozen=True, kw_only=True)
class LossSettings(Checked):
    """Everything that shapes the loss. smoothing: the share of a label given evenly to all classes."""

    smoothing: float = setting(0.1, low=0, below=1, help="label smoothing")
    mixing: Mixing = part(Mixing)
    distillation: Distillation = part(Distillation)


@dataclass(frozen=True, kw_only=True)
class ClassificationSettings(RunSettings):
    """What a classifier is, what it learns from, and how. Raises SettingsError for a value out of its range.

    Paths are as on the command line.

        ClassificationSettings.of({"model": "vit_s16", "data": "photos", "out": "runs/a", "epochs": 30})
    """

    model: BackboneSettings = part(BackboneSettings)
    data: ImageData = part(ImageData)
    augmentation: Augmentation = part(Augmentation)
    loss: LossSettings = part(LossSettings)
    teacher: str = setting("", help="a saved model, or a run, that the student learns from")

    def __post_init__(self) -> None:
        super().__post_init__()
        kind = self.loss.distillation.kind
        if bool(self.teacher) != (kind != "none"):
            raise SettingsError("a teacher and a kind of distillation go together: "
                                f"teacher is {self.teacher!r}, distillation is {kind!r}")
