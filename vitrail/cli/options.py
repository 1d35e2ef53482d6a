"""Settings that several commands share. Their ranges are those of the code that uses them. Imports no torch."""
from dataclasses import dataclass
from typing import Literal

from vitrail.core.settings import Checked, like, setting
from vitrail.data.settings import OnError, Opening
from vitrail.training.settings import TrainSettings

Precision = Literal["fp32", "bf16", "int8"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16", "int8")


@dataclass(frozen=True, kw_only=True)
class NoOptions(Checked):
    """Nothing."""


@dataclass(frozen=True, kw_only=True)
class FromModel(Checked):
    """Which model, and where the tensors of a catalogue name come from."""

    model: str = setting(positional=True, metavar="MODEL", help="a run's folder, a saved model's folder, or a name of "
                                                                "the catalogue with --weights")
    weights: str = setting("", metavar="FROM", help="for a name: a release (`vitrail show NAME` lists them), a file, "
                                                    "https://... or hf://...")
    keys: str = setting("", metavar="LAYOUT", help="the layout of a file: vitrail, timm, official")


@dataclass(frozen=True, kw_only=True)
class Threads(Checked):
    """How much of the processor is used."""

    threads: int = like(TrainSettings, "threads")


@dataclass(frozen=True, kw_only=True)
class OnDevice(Threads):
    """Where a model is run."""

    device: str = like(TrainSettings, "device")


@dataclass(frozen=True, kw_only=True)
class Optimized(Checked):
    """Whether the model is rewritten first."""

    optimize: Precision | None = setting(
        None, help="rewrite the model for this processor first (`vitrail optimize` tries them); the first batch is "
                   "compared with the model, and calibrates int8")


@dataclass(frozen=True, kw_only=True)
class SkipsErrors(Checked):
    """What an unreadable image does."""

    on_error: OnError = like(Opening, "on_error", help="at an image that cannot be read: stop, or leave it out and "
                                                       "list it")


@dataclass(frozen=True, kw_only=True)
class Overwrites(Checked):
    """Whether what is there may be replaced."""

    overwrite: bool = setting(False, help="replace what is there")


def batch(default: int) -> int:
    """A field: how many images at a time."""
    size: int = like(TrainSettings, "batch", default=default, help="images at a time")
    return size
