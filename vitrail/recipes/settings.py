"""What `vitrail train` is told for classification. Imports no torch."""
import re
from dataclasses import dataclass
from typing import Any

from vitrail.core import toml
from vitrail.core.errors import SettingsError
from vitrail.core.settings import Checked, part, setting
from vitrail.data.settings import Augmentation, SplitSettings
from vitrail.tasks.classification.settings import Objective
from vitrail.training.settings import RunSettings


@dataclass(frozen=True, kw_only=True)
class ModelSettings(Checked):
    """Which network."""

    name: str = setting("deit_ti16", flag="model", help="a name that `vitrail list` shows; of text: --kind foundation")
    set: tuple[str, ...] = setting((), metavar="NAME=VALUE", help="arguments of the model: depth=6 ...")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.arguments()

    def arguments(self) -> dict[str, Any]:
        """The model's arguments that `set` names, as values. Raises SettingsError for one that is not name=value.

            ModelSettings(set=("depth=6", "depths=2,2")).arguments()        # {"depth": 6, "depths": [2, 2]}
        """
        return parse_arguments(self.set)


@dataclass(frozen=True, kw_only=True)
class BackboneSettings(ModelSettings):
    """Which network, and what it starts from."""

    mixer: str = setting("", help="a mechanism in place of the model's own: see list --kind attention")
    weights: str = setting("", help="start from a release, an address or a file")
    keys: str = setting("vitrail", help="the layout of such a file: vitrail, timm, official")
    inside: str = setting("", help="the entry of such a file that holds the tensors: model")
    new_head: bool = setting(False, help="leave the head new: the weights are of other classes")


@dataclass(frozen=True, kw_only=True)
class ImageData(SplitSettings):
    """Which images, and how large the model sees them."""

    source: str = setting("digits", flag="data", help="digits, a folder of class folders, a .csv, hf:..., wds:...")
    size: int = setting(0, low=0, high=4096, help="pixels a side; 0: the model's own")
    crop: float = setting(0.875, above=0, high=1, help="share of the shorter side that evaluation looks at")


@dataclass(frozen=True, kw_only=True)
class ClassifySettings(RunSettings):
    """What a classifier is, what it learns from, and how. Raises SettingsError for a value out of its range.

    Paths are as on the command line.

        ClassifySettings.of({"model": "vit_s16", "data": "photos", "out": "runs/a", "epochs": 30})
    """

    model: BackboneSettings = part(BackboneSettings)
    data: ImageData = part(ImageData)
    augmentation: Augmentation = part(Augmentation)
    loss: Objective = part(Objective)
    teacher: str = setting("", help="a saved model, or a run, that the student learns from")

    def __post_init__(self) -> None:
        super().__post_init__()
        kind = self.loss.distillation.kind
        if bool(self.teacher) != (kind != "none"):
            raise SettingsError("a teacher and a kind of distillation go together: "
                                f"teacher is {self.teacher!r}, distillation is {kind!r}")


def parse_arguments(texts: tuple[str, ...]) -> dict[str, Any]:
    """Texts such as "depth=6" as names and values. Raises SettingsError for one that is not name=value, or comes
    twice."""
    arguments: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier():
            raise SettingsError(f"the setting 'set' holds {text!r}, and takes name=value, such as depth=6")
        if name in arguments:
            raise SettingsError(f"the setting 'set' names {name!r} twice")
        # 2,2 is meant as a list: the text "2,2" would be three stages, of which one is a comma
        is_list = re.fullmatch(r"[\d.eE+-]+(,[\d.eE+-]+)+", value)
        arguments[name] = toml.value(f"[{value}]" if is_list else value)
    return arguments
