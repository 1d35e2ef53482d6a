"""What a claim of the field is, and what running it found. Imports no torch."""
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Kind = Literal["exact", "cost", "learning"]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A sentence that can fail, and what is done about it. All of it is said before anything runs.

    exact: a property, to numerical precision. cost: a measured exponent or ratio.
    learning: a difference between trainings, over several seeds.
    module: of this package, whose RUNS hold the function that runs it.
    """

    id: str
    kind: Kind
    says: str
    source: str
    miniature: str          # data, models, seeds, budget
    statistic: str
    refuted_by: str
    module: str


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What was found: whether the claim held, in a sentence, and in numbers that JSON can hold."""

    held: bool
    finding: str
    numbers: Mapping[str, Any]
    figure: "Figure | None" = field(default=None, repr=False)
