"""What `vitrail train` is told for classification. Imports no torch."""
import re
from dataclasses import dataclass, field
from typing import Any, Literal

from vitrail.core.errors import SettingsError
from vitrail.core import toml
from vitrail.core.settings import setting
from vitrail.training.settings import TrainSettings


@dataclass(frozen=True, kw_only=True)
class ClassifySettings(TrainSettings):
    """Which model, on which images, seen how, told what. Raises SettingsError for a value out of its range.

    The rest is TrainSettings'. Paths are as on the command line; a file of settings may hold any of these names.
    """

    model: str = field(default="deit_ti16", metadata={"help": "a name that `vitrail list` shows"})
    change: tuple[str, ...] = field(default=(), metadata={"help": "arguments of the model: depth=6 ..."})
    mixer: str = field(default="", metadata={"help": "a mechanism in place of the model's own: see list --kind "
                                                     "attention"})
    weights: str = field(default="", metadata={"help": "start from a release, an address or a file"})
    keys: str = field(default="vitrail", metadata={"help": "the layout of such a file: vitrail, timm, official"})
    inside: str = field(default="", metadata={"help": "the entry of such a file that holds the tensors: model"})
    new_head: bool = field(default=False, metadata={"help": "leave the head new: the weights are of other classes"})
    data: str = field(default="digits", metadata={"help": "digits, a folder of class folders, a .csv, hf:..., wds:..."})
    val: str = field(default="", metadata={"help": "images to evaluate on; left out: a share of the data"})
    val_fraction: float = setting(0.2, above=0, below=1, help="the share held out where no other images are named")
    on_error: Literal["stop", "skip"] = field(default="stop", metadata={"help": "what an unreadable image does"})
    size: int = setting(0, low=0, high=4096, help="pixels a side; 0: the model's own")
    crop: float = setting(0.875, above=0, high=1, help="share of the shorter side that evaluation looks at")
    crop_scale: float = setting(0.08, above=0, high=1, help="the least share of an image that a training crop keeps")
    flip: float = setting(0.5, low=0, high=1, help="probability of a horizontal flip")
    randaugment: int = setting(2, low=0, high=16, help="RandAugment operations an image")
    magnitude: int = setting(9, low=0, high=30, help="of RandAugment, of 31 steps")
    jitter: float = setting(0.0, low=0, high=1, help="strength of colour jitter")
    erase: float = setting(0.25, low=0, high=1, help="probability of random erasing")
    smoothing: float = setting(0.1, low=0, below=1, help="label smoothing")
    mixup: float = setting(0.0, low=0, high=1000, help="alpha of mixup; 0: none")
    cutmix: float = setting(0.0, low=0, high=1000, help="alpha of cutmix; 0: none")
    teacher: str = field(default="", metadata={"help": "a saved model, or a run, that the student learns from"})
    distillation: Literal["none", "soft", "hard"] = field(default="none", metadata={"help": "how it learns from it"})
    alpha: float = setting(0.5, low=0, high=1, help="weight of the teacher's term")
    temperature: float = setting(3.0, low=0.01, high=1000, help="of soft distillation")

    def __post_init__(self) -> None:
        super().__post_init__()
        if bool(self.teacher) != (self.distillation != "none"):
            raise SettingsError("a teacher and a kind of distillation go together: "
                                f"teacher is {self.teacher!r}, distillation is {self.distillation!r}")
        self.arguments()

    def arguments(self) -> dict[str, Any]:
        """The model's arguments that `change` names, as values. Raises SettingsError for one that is no name=value."""
        return changes_of(self.change)


def changes_of(texts: tuple[str, ...]) -> dict[str, Any]:
    """Texts such as "depth=6" as names and values. Raises SettingsError for one that is no name=value, or comes twice.
    """
    out: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier():
            raise SettingsError(f"the setting 'change' holds {text!r}, and takes name=value, such as depth=6")
        if name in out:
            raise SettingsError(f"the setting 'change' names {name!r} twice")
        # 2,2 is meant as a list: the text "2,2" would be three stages, of which one is a comma
        out[name] = toml.value(f"[{value}]" if re.fullmatch(r"[\d.eE+-]+(,[\d.eE+-]+)+", value) else value)
    return out
