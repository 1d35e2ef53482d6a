"""What `vitrail train` is told for a model of text. Imports no torch."""
from dataclasses import dataclass
from typing import Any, Literal

from vitrail.core.errors import SettingsError
from vitrail.core.settings import Checked, part, setting
from vitrail.data.settings import DataSettings
from vitrail.training.model_settings import ModelSettings
from vitrail.training.settings import RunSettings, TrainSettings


@dataclass(frozen=True, kw_only=True)
class LanguageModelSettings(ModelSettings):
    """Which network of text."""

    def arguments(self) -> dict[str, Any]:
        """The model's arguments that `set` names. Raises SettingsError also for one that follows from the texts."""
        arguments = super().arguments()
        for name in ("vocabulary", "pad", "length"):
            if name in arguments:
                hint = "give the setting 'length'" if name == "length" else "it follows from the texts"
                raise SettingsError(f"the setting 'set' names {name!r}, and {hint}")
        return arguments


@dataclass(frozen=True, kw_only=True)
class TextData(DataSettings):
    """Which texts, and how they are cut."""

    source: str = setting("toy", flag="data", help="to translate: toy, or a .tsv file of pairs; to fill gaps or go "
                                                   "on: page, toy, or a .txt file")
    sentences: int = setting(6000, low=10, high=1_000_000, help="of the toy language")
    units: Literal["auto", "characters", "words"] = setting(
        "auto", help="what a text is made of; auto: words to translate and of the toy language, else characters")
    most: int = setting(30_000, low=1, high=1 << 20, help="units that are known, the most frequent ones")
    length: int = setting(0, low=0, high=1 << 16, help="tokens of a text; 0: 64, and 32 to fill gaps")
    stride: int = setting(0, low=0, high=1 << 16, help="units between the starts of two stretches of a running text; "
                                                       "0: so that an epoch has 1,000, or 4,000 with gaps")


@dataclass(frozen=True, kw_only=True)
class LossSettings(Checked):
    """What is asked of an answer."""

    smoothing: float = setting(0.1, low=0, below=1, help="label smoothing")


@dataclass(frozen=True, kw_only=True)
class LanguageSettings(RunSettings):
    """What a model of text is, what it learns from, and how. Raises SettingsError for a value out of its range."""

    model: LanguageModelSettings = part(LanguageModelSettings, name="transformer_tiny")
    data: TextData = part(TextData, val_fraction=0.1)
    loss: LossSettings = part(LossSettings)
    training: TrainSettings = part(TrainSettings, epochs=15, batch=32, lr=3e-3, betas=(0.9, 0.98), weight_decay=0.01)
