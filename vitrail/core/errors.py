"""Every failure that a user can cause: what was wrong, where, and what to do about it."""
import difflib
from collections.abc import Iterable


class VitrailError(Exception):
    """The root of the errors vitrail raises on purpose.

    Made from one string, so that it survives the trip out of a loader's worker process.
    """

    exit_code = 1


class SettingsError(VitrailError):
    """A setting, flag or file of settings that cannot be used."""

    exit_code = 2


class ModelError(VitrailError):
    """An unknown model, or arguments that its constructor does not take."""

    exit_code = 2


class DataError(VitrailError):
    """An image, folder or table that cannot be read as what it claims to be."""


class CheckpointError(VitrailError):
    """Weights that are damaged, unsafe, or of another network."""


class TrainingError(VitrailError):
    """A run that cannot go on: a loss that is not a number, a full disk, a lost process."""


class ExportError(VitrailError):
    """An artefact that was not written, or that does not answer like the model it came from."""


class ExplainError(VitrailError):
    """An explanation that a model's form does not allow."""


class MissingExtra(VitrailError):
    """A part of vitrail whose optional packages are not installed."""

    @classmethod
    def of(cls, package: str, extra: str) -> "MissingExtra":
        return cls(f"this needs the package {package!r}, which is not installed: pip install 'vitrail[{extra}]'")


def did_you_mean(word: str, choices: Iterable[str], *, least: float = 0.5) -> str:
    """A hint such as ``Did you mean 'swin_t'?``, or an empty string when nothing is near.

    least: how alike they must be, from 0 to 1 (difflib's ratio).
    """
    found = difflib.get_close_matches(word, list(choices), n=3, cutoff=least)
    return f" Did you mean {' or '.join(repr(f) for f in found)}?" if found else ""
