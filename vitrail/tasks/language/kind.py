"""What translation, going on with a text and filling gaps have in common, and where they differ."""
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Generic, TypeVar

from torch import Tensor, nn

from vitrail.tasks.language.batches import Lines
from vitrail.tasks.language.model import LanguageModel

S = TypeVar("S")
B = TypeVar("B", bound=Lines)


class Kind(ABC, Generic[S, B]):
    """One way to learn from texts: its loss, its scores, what simple ways reach, and a few answers."""

    name: ClassVar[str]                                     # one of spec.KINDS
    summed: ClassVar[tuple[str, ...]]                       # the names of what `tally` counts
    shares: ClassVar[tuple[str, ...]] = ()                  # scores that are shares of samples, and have an interval

    @abstractmethod
    def loss(self, model: nn.Module, batch: B, smoothing: float) -> dict[str, Tensor]:
        """{"loss": the mean over the tokens that are to be answered, ...}."""

    @abstractmethod
    def tally(self, model: LanguageModel, batch: B) -> dict[str, float]:
        """Sums over a batch, from which `scores` makes scores; the same names for every batch."""

    @abstractmethod
    def scores(self, sums: Mapping[str, float]) -> dict[str, float]: ...

    @abstractmethod
    def baselines(self, train: S, val: S) -> dict[str, dict[str, float]]:
        """Scores of simple ways to do the same on the same samples, by what they are called."""

    @abstractmethod
    def examples(self, model: LanguageModel, val: S, seed: int) -> list[dict[str, Any]]:
        """What the model makes of a few samples, as JSON."""


def kind_of(name: str) -> Kind[Any, Any]:
    """One of them by its name."""
    from vitrail.tasks.language.causal import Causal
    from vitrail.tasks.language.masked import Masked
    from vitrail.tasks.language.translation import Translation
    kinds: tuple[Kind[Any, Any], ...] = (Translation(), Causal(), Masked())
    return next(kind for kind in kinds if kind.name == name)
