"""What `vitrail survey` is told. Imports no torch."""
from dataclasses import dataclass, field
from typing import Any

from vitrail.core import catalogue
from vitrail.core.catalogue import Entry
from vitrail.core.errors import ModelError, did_you_mean
from vitrail.core.settings import Checked, setting


@dataclass(frozen=True, kw_only=True)
class SurveySettings(Checked):
    """Which models are measured, and how. Raises SettingsError for a value out of its range, ModelError where a pattern
    names no model.
    """

    out: str = field(metadata={"help": "the folder for the table, the figures, and each model's measurements"})
    models: tuple[str, ...] = field(default=("*",), metadata={"help": "names or shell patterns: 'swin*' vit_s16"})
    batches: tuple[int, ...] = setting((1, 8), low=1, high=4096, help="images at a time")
    rounds: int = setting(15, low=1, high=100_000, help="how often each is timed, where its budget allows")
    threads: int = setting(0, low=0, high=4096, help="of the processor; 0: torch's choice")
    limit_gflops: float = setting(0.0, low=0, help="models of more multiply-adds (1e9) are left out; 0: none")
    limit_gb: float = setting(0.0, low=0, help="models that would hold more GiB are left out; 0: three quarters of "
                                               "this machine's memory")
    budget_seconds: float = setting(120.0, above=0, high=1e6, help="of timing for each model: fewer rounds are made of "
                                                                   "a slow one, and below three it is left out")
    remeasure: bool = field(default=False, metadata={"help": "replace what was measured under other conditions"})

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "batches", tuple(sorted(set(self.batches))))
        self.chosen()

    def chosen(self) -> list[Entry]:
        """The backbones that the patterns name, in the catalogue's order."""
        found: set[str] = set()
        for pattern in self.models:
            matching = {e.name for e in catalogue.search(pattern, kind="backbone")}
            if not matching:
                raise ModelError(f"no model matches {pattern!r}.{did_you_mean(pattern, catalogue.names('backbone'))} "
                                 "`vitrail list` shows all of them.")
            found |= matching
        return [e for e in catalogue.entries().values() if e.name in found]

    def conditions(self) -> dict[str, Any]:
        """What two measurements must share to stand in one table, beside the machine."""
        return {"batches": list(self.batches), "rounds": self.rounds}

    def command(self) -> str:
        """The words that ask for this survey."""
        own = {"out": None, "models": ("*",), "batches": (1, 8), "rounds": 15, "threads": 0, "limit_gflops": 0.0,
               "limit_gb": 0.0, "budget_seconds": 120.0, "remeasure": False}
        said = [f"--{name.replace('_', '-')} {_words(value)}" for name, value in self.resolved().items()
                if value != own[name] and name != "remeasure"]
        return " ".join(["vitrail survey", *said])


def _words(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(f"'{v}'" if "*" in str(v) or "?" in str(v) else str(v) for v in value)
    return f"{value:g}" if isinstance(value, float) else str(value)
