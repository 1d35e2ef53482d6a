"""What `vitrail compare` is told: the settings of a task, and beside them which mechanisms, how often. Imports no
torch."""
import functools
from dataclasses import dataclass
from typing import Any

from vitrail.core import catalogue
from vitrail.core.errors import SettingsError
from vitrail.core.settings import part, setting
from vitrail.core.task import Task, task_for
from vitrail.training.settings import RunSettings

MIXERS = ("self_attention", "criss_cross", "linear_attention", "linformer", "cross_covariance", "axial_plain",
          "lambda_global", "hamburger_nmf", "deformable")
OWN = {"mixers", "jobs", "seeds"}       # what its trainings are not told
# choosing an epoch on the held-out samples would flatter each score, and some more than others: the last is judged
LAST = {"evaluate_every": 1_000_000, "finish": "last"}


@dataclass(frozen=True, kw_only=True)
class CompareSettings(RunSettings):
    """Which mechanisms, how often. Raises SettingsError for a value out of its range, ModelError for an unknown one.

    Every mechanism is trained under the same settings, on the same samples in the same order, once a seed. The defaults
    are those of a short comparison on the task's own small data; for data of your own say what you would say to train.
    """

    mixers: tuple[str, ...] = setting(MIXERS, help="mechanisms, by name or as FILE.py:CLASS; the first is compared "
                                                   "with")
    jobs: int = setting(2, low=1, high=1024, free=True, help="trainings at a time, each with its own process")
    seeds: int = setting(3, low=1, high=1000, help="runs of each mechanism: seed, seed + 1, ...")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not hasattr(self.model, "mixer"):
            raise SettingsError(f"{self.model.name} takes no other mixer: compare is for backbones "
                                "(`vitrail list` shows them)")
        if self.model.mixer:
            raise SettingsError("the setting 'mixer' is of train; compare takes several, --mixers")
        if len(self.mixers) < 2 or len(set(self.mixers)) != len(self.mixers):
            raise SettingsError(f"the setting 'mixers' is {' '.join(self.mixers) or 'empty'}, and must name two "
                                "mechanisms at least, each once")
        for name in self.mixers:
            if ":" not in name:                         # mine.py:MyMixer is found when it is built
                catalogue.find(name, "attention")

    @property
    def chosen_task(self) -> Task:
        """The task that the model is trained for."""
        return task_for(self.model.name, self.task)

    def of_run(self, mixer: str, turn: int) -> RunSettings:
        """What one of the trainings is told: the task's own settings."""
        shared = {name: value for name, value in self.resolved().items() if name not in OWN}
        seed = self.training.seed + turn
        told: RunSettings = self.chosen_task.settings.of(
            {**shared, "mixer": mixer, "seed": seed, "out": f"{self.out}/{mixer.rpartition(':')[2]}/seed-{seed}"})
        return told


@functools.cache
def settings_for(name: str) -> type[CompareSettings]:
    """The settings of a comparison for a task, by its name: the task's, with defaults for its small data.

        settings_for(task_names()[0]).of({"out": "runs/compare", "seeds": 1})
    """
    task = task_for("", name)
    base = task.settings_type
    parts: dict[str, Any] = {}
    for part_name, defaults in {"training": {}, **task.comparison}.items():
        kind = next(cls.__annotations__[part_name] for cls in base.__mro__ if part_name in vars(cls).get(
            "__annotations__", {}))
        parts[part_name] = (kind, part(kind, **(LAST if part_name == "training" else {}), **defaults))
    namespace = {name: default for name, (_, default) in parts.items()}
    namespace["__annotations__"] = {name: kind for name, (kind, _) in parts.items()}
    namespace["__doc__"] = CompareSettings.__doc__
    namespace["__module__"] = __name__
    kind = type(f"{base.__name__}Comparison", (CompareSettings, base), namespace)
    built: type[CompareSettings] = dataclass(frozen=True, kw_only=True)(kind)
    return built
