"""A network of language with what it takes to read and write."""
from typing import Any, Protocol, Self

from torch import Tensor, nn

from vitrail.core.config import ModelConfig
from vitrail.core.errors import ModelError


class State(Protocol):
    """What a network keeps of the texts that it is writing, a row each."""

    def take(self, rows: Tensor) -> Self:
        """The state of these rows, in this order; a row may come several times."""


class LanguageModel(nn.Module):
    """A network of `vitrail.foundations`, called as it is, and its config."""

    network_prefix = "network."             # key tables name the network's own tensors

    def __init__(self, network: nn.Module, config: ModelConfig):
        super().__init__()
        self.network = network
        self.config = config

    def forward(self, *inputs: Tensor) -> Any:
        return self.network(*inputs)

    def begin(self, source: Any) -> State:
        """The state before the first token: of these sources (B, S), or, without a source, of so many rows."""
        return self.network.begin(source)                               # type: ignore[operator]

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """The last tokens (B,) -> the logits (B, V) of the next, and the state after them."""
        return self.network.step(tokens, state)                         # type: ignore[operator]


def build(config: ModelConfig, network: nn.Module) -> LanguageModel:
    return LanguageModel(network, config)


def language_model(model: nn.Module, kind: str) -> LanguageModel:
    """The model itself. Raises ModelError where it is not one, or does something else."""
    if not isinstance(model, LanguageModel):
        raise ModelError("this is done with a LanguageModel, as create_model and load_model give it, not with a "
                         f"{type(model).__name__}: leave out --optimize where it was given")
    if model.config.spec.kind != kind:
        raise ModelError(f"{model.config.model} is for {model.config.spec.kind}, not for {kind}")
    return model
