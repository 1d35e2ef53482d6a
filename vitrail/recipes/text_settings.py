"""What `vitrail train` is told for a model of text. Imports no torch."""
from dataclasses import dataclass, field
from typing import Any, Literal

from vitrail.core.errors import SettingsError
from vitrail.core.settings import setting
from vitrail.recipes.settings import changes_of
from vitrail.training.settings import TrainSettings


@dataclass(frozen=True, kw_only=True)
class TextSettings(TrainSettings):
    """Which model of text, on which texts, cut how. Raises SettingsError for a value out of its range.

    The rest is TrainSettings', with other defaults for some of it.
    """

    model: str = field(default="transformer_tiny", metadata={"help": "`vitrail list --kind foundation` shows them"})
    change: tuple[str, ...] = field(default=(), metadata={"help": "arguments of the model: depth=6 ..."})
    data: str = field(default="toy", metadata={
        "help": "to translate: toy, or a .tsv file of pairs; to fill gaps or go on: page, toy, or a .txt file"})
    val: str = field(default="", metadata={"help": "texts to evaluate on; left out: a share of the data"})
    val_fraction: float = setting(0.1, above=0, below=1, help="the share held out where no other texts are named")
    on_error: Literal["stop", "skip"] = field(default="stop", metadata={"help": "what a line that is no pair does"})
    sentences: int = setting(6000, low=10, high=1_000_000, help="of the toy language")
    units: Literal["auto", "characters", "words"] = field(default="auto", metadata={
        "help": "what a text is made of; auto: words to translate and of the toy language, else characters"})
    most: int = setting(30_000, low=1, high=1 << 20, help="units that are known, the most frequent ones")
    length: int = setting(0, low=0, high=1 << 16, help="tokens of a text; 0: 64, and 32 to fill gaps")
    stride: int = setting(0, low=0, high=1 << 16, help="units between the starts of two stretches of a running text; "
                                                       "0: so that an epoch has 1,000, or 4,000 with gaps")
    smoothing: float = setting(0.1, low=0, below=1, help="label smoothing")
    epochs: int = setting(15, low=1, high=1_000_000, help="times through the training data")
    batch: int = setting(32, low=1, high=1 << 24, help="samples a step, over all processes")
    lr: float = setting(3e-3, above=0, high=100, help="the highest learning rate")
    betas: tuple[float, float] = setting((0.9, 0.98), low=0, below=1, help="of AdamW")
    weight_decay: float = setting(0.01, low=0, high=10, help="of AdamW; not of biases, norms and positions")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.arguments()

    def arguments(self) -> dict[str, Any]:
        """The model's arguments that `change` names, as values. Raises SettingsError for one that is no name=value, or
        that follows from the texts."""
        found = changes_of(self.change)
        for name in ("vocabulary", "pad", "length"):
            if name in found:
                hint = "give the setting 'length'" if name == "length" else "it follows from the texts"
                raise SettingsError(f"the setting 'change' names {name!r}, and {hint}")
        return found
