"""What `vitrail compare` is told. Imports no torch."""
from dataclasses import dataclass, field
from typing import Literal

from vitrail.core import catalogue
from vitrail.core.errors import SettingsError
from vitrail.core.settings import setting
from vitrail.recipes.settings import ClassifySettings

MIXERS = ("self_attention", "criss_cross", "linear_attention", "linformer", "cross_covariance", "axial_plain",
          "lambda_global", "hamburger_nmf", "deformable")


@dataclass(frozen=True, kw_only=True)
class CompareSettings(ClassifySettings):
    """Which mechanisms, how often. Raises SettingsError for a value out of its range, ModelError for an unknown one.

    Every mechanism is trained under the same settings, on the same images in the same order, once a seed. The defaults
    are those of a short comparison on the bundled digits; for images of your own say what you would say to train.
    """

    mixers: tuple[str, ...] = field(default=MIXERS, metadata={"help": "mechanisms; the first is compared with"})
    jobs: int = setting(2, low=1, high=1024, free=True, help="trainings at a time, each with its own process")
    seeds: int = setting(3, low=1, high=1000, help="runs of each mechanism: seed, seed + 1, ...")
    model: str = field(default="deit_ti16", metadata={"help": "a plain backbone that `vitrail list` shows"})
    change: tuple[str, ...] = field(default=("patch=2", "dim=64", "depth=4", "heads=4"),
                                    metadata={"help": "arguments of the model"})
    size: int = setting(16, low=0, high=4096, help="pixels a side; 0: the model's own")
    epochs: int = setting(15, low=1, high=1_000_000, help="times through the training data")
    batch: int = setting(32, low=1, high=1 << 24, help="samples a step, over all processes")
    lr: float = setting(3e-3, above=0, high=100, help="the highest learning rate")
    crop: float = setting(1.0, above=0, high=1, help="share of the shorter side that evaluation looks at")
    crop_scale: float = setting(0.7, above=0, high=1, help="the least share of an image that a training crop keeps")
    flip: float = setting(0.0, low=0, high=1, help="probability of a horizontal flip")
    randaugment: int = setting(0, low=0, high=16, help="RandAugment operations an image")
    erase: float = setting(0.0, low=0, high=1, help="probability of random erasing")
    threads: int = setting(1, low=0, high=4096, free=True, help="of the processor, for each training")
    evaluate_every: int = setting(1_000_000, low=1, high=1_000_000, help="epochs between evaluations")
    # choosing an epoch on the held-out images would flatter each score, and some more than others
    finish: Literal["best", "last"] = field(default="last", metadata={"help": "whose weights are judged"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mixer:
            raise SettingsError("the setting 'mixer' is of train; compare takes several, --mixers")
        if len(self.mixers) < 2 or len(set(self.mixers)) != len(self.mixers):
            raise SettingsError(f"the setting 'mixers' is {' '.join(self.mixers) or 'empty'}, and must name two "
                                "mechanisms at least, each once")
        for name in self.mixers:
            catalogue.find(name, "attention")

    def of_run(self, mixer: str, turn: int) -> ClassifySettings:
        """What one of the trainings is told."""
        own = {"mixers", "seeds", "jobs"}
        values = {k: v for k, v in self.resolved().items() if k not in own}
        folder = f"{self.out}/{mixer}/seed-{self.seed + turn}"
        return ClassifySettings(**{**values, "mixer": mixer, "seed": self.seed + turn, "out": folder})
