"""Which network is trained, and what it starts from, as plain checked values. Imports no torch."""
import re
from dataclasses import dataclass
from typing import Any

from vitrail.core import toml
from vitrail.core.errors import SettingsError
from vitrail.core.settings import Checked, setting


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

    mixer: str = setting("", help="in place of the model's own: see list --kind attention; or your own, FILE.py:CLASS")
    weights: str = setting("", help="start from a release, an address or a file")
    keys: str = setting("vitrail", help="the layout of such a file: vitrail, timm, official")
    inside: str = setting("", help="the entry of such a file that holds the tensors: model")
    new_head: bool = setting(False, help="leave the head new: the weights are of other classes")


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
