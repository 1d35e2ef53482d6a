"""What `vitrail compare` is told. Imports no torch."""
from dataclasses import dataclass

from vitrail.core import catalogue
from vitrail.core.errors import SettingsError
from vitrail.core.settings import part, setting
from vitrail.data.settings import Augmentation, ImageData
from vitrail.tasks.classification.settings import ClassificationSettings
from vitrail.training.model_settings import BackboneSettings
from vitrail.training.settings import TrainSettings

MIXERS = ("self_attention", "criss_cross", "linear_attention", "linformer", "cross_covariance", "axial_plain",
          "lambda_global", "hamburger_nmf", "deformable")
OWN = {"mixers", "jobs", "seeds"}       # what its trainings are not told


@dataclass(frozen=True, kw_only=True)
class CompareSettings(ClassificationSettings):
    """Which mechanisms, how often. Raises SettingsError for a value out of its range, ModelError for an unknown one.

    Every mechanism is trained under the same settings, on the same images in the same order, once a seed. The defaults
    are those of a short comparison on the bundled digits; for images of your own say what you would say to train.
    """

    mixers: tuple[str, ...] = setting(MIXERS, help="mechanisms; the first is compared with")
    jobs: int = setting(2, low=1, high=1024, free=True, help="trainings at a time, each with its own process")
    seeds: int = setting(3, low=1, high=1000, help="runs of each mechanism: seed, seed + 1, ...")
    model: BackboneSettings = part(BackboneSettings, set=("patch=2", "dim=64", "depth=4", "heads=4"))
    data: ImageData = part(ImageData, size=16, crop=1.0)
    augmentation: Augmentation = part(Augmentation, scale=(0.7, 1.0), flip=0.0, randaugment_ops=0, erase=0.0)
    # choosing an epoch on the held-out images would flatter each score, and some more than others: the last is judged
    training: TrainSettings = part(TrainSettings, epochs=15, batch=32, lr=3e-3, threads=1, evaluate_every=1_000_000,
                                   finish="last")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.model.mixer:
            raise SettingsError("the setting 'mixer' is of train; compare takes several, --mixers")
        if len(self.mixers) < 2 or len(set(self.mixers)) != len(self.mixers):
            raise SettingsError(f"the setting 'mixers' is {' '.join(self.mixers) or 'empty'}, and must name two "
                                "mechanisms at least, each once")
        for name in self.mixers:
            catalogue.find(name, "attention")

    def of_run(self, mixer: str, turn: int) -> ClassificationSettings:
        """What one of the trainings is told."""
        shared = {name: value for name, value in self.resolved().items() if name not in OWN}
        seed = self.training.seed + turn
        return ClassificationSettings.of({**shared, "mixer": mixer, "seed": seed, "out": f"{self.out}/{mixer}/seed-{seed}"})
