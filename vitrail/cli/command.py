"""What a command is: settings, and a function that runs with them. Imports no torch."""
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from vitrail.core.settings import Checked


class Runs(Protocol):
    """Does the work, prints what came of it (one JSON value where `json`), and returns the exit code."""

    def __call__(self, settings: Any, /, *, json: bool) -> int: ...


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command: what it is told, and what it does with that.

    settings: its class of settings, or a function that chooses one by the words of the command. more: what stands below
    its page of help. subcommands: for a first word such as `attention`, the module of this package that holds the
    command meant.
    """

    about: str
    settings: type[Checked] | Callable[[Sequence[str]], type[Checked]]
    run: Runs
    more: str = ""
    subcommands: Mapping[str, str] = field(default_factory=dict)

    def settings_of(self, words: Sequence[str]) -> type[Checked]:
        """The class of settings for these words."""
        return self.settings if isinstance(self.settings, type) else self.settings(words)
