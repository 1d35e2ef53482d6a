"""A network of text with what it takes to read and write: its vocabulary, and how long a text it knows."""
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

from torch import Tensor, nn

from vitrail.core.errors import CheckpointError, ModelError, VitrailError
from vitrail.data.text.vocabulary import Vocabulary

TASKS = ("translation", "masked", "causal")


@dataclass(frozen=True, kw_only=True)
class TextIdentity:
    """The variant's name, the changes to its arguments, what it does, and the texts that it was made for.

    length: the most tokens of a text that it was trained on.
    """

    model: str
    task: str                                               # one of TASKS
    vocabulary: Vocabulary
    length: int
    changes: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {"model": self.model, "task": self.task, "length": self.length, "changes": dict(self.changes),
                "vocabulary": self.vocabulary.to_json()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "TextIdentity":
        """Raises CheckpointError where a field is missing or of the wrong kind."""
        try:
            length, task = data["length"], str(data["task"])
            changes = {k: tuple(v) if isinstance(v, list) else v for k, v in dict(data["changes"]).items()}
            if type(length) is not int or not 1 <= length <= 1 << 20 or task not in TASKS:
                raise ValueError(f"length {length!r}, task {task!r}")
            return cls(model=str(data["model"]), task=task, length=length, changes=changes,
                       vocabulary=Vocabulary.from_json(data["vocabulary"]))
        except VitrailError as e:
            raise CheckpointError(str(e)) from None
        except (KeyError, TypeError, ValueError) as e:
            raise CheckpointError(f"this does not describe a model of text: {type(e).__name__}: {e}") from None


class State(Protocol):
    """What a network keeps of the texts that it is writing, a row each."""

    def take(self, rows: Tensor) -> Self:
        """The state of these rows, in this order; a row may come several times."""


class LanguageModel(nn.Module):
    """A network of `vitrail.foundations`, called as it is, and its config."""

    def __init__(self, network: nn.Module, config: TextIdentity):
        super().__init__()
        self.network, self.config = network, config

    def forward(self, *inputs: Tensor) -> Any:
        return self.network(*inputs)

    def begin(self, source: Any) -> State:
        """The state before the first token: of these sources (B, S), or, without a source, of so many rows."""
        return self.network.begin(source)                               # type: ignore[operator]

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """The last tokens (B,) -> the logits (B, V) of the next, and the state after them."""
        return self.network.step(tokens, state)                         # type: ignore[operator]


def language_model(model: nn.Module, task: str) -> LanguageModel:
    """The model itself. Raises ModelError where it is none, or does something else."""
    if not isinstance(model, LanguageModel):
        raise ModelError(f"this is done with a LanguageModel, and not with a {type(model).__name__}")
    if model.config.task != task:
        raise ModelError(f"{model.config.model} is for {model.config.task}, not for {task}")
    return model
