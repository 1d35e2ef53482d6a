"""Tiny networks of text whose answers are known, and a world small enough to search it all."""
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor, nn

from vitrail.tasks.language.vocabulary import END, MARKS, PAD, START, Vocabulary
from vitrail.tasks.language.decode import length_penalty
from vitrail.core.config import ModelConfig
from vitrail.tasks.language.model import LanguageModel
from vitrail.tasks.language.spec import LanguageSpec


@dataclass(frozen=True)
class Memory:
    """What was read (B, K) and the sum of what was written (B, K)."""

    source: Tensor
    written: Tensor

    def take(self, rows: Tensor) -> "Memory":
        return Memory(self.source[rows], self.written[rows])


class Tiny(nn.Module):
    """An encoder-decoder whose next token depends on the source and on all that was written, by fixed noise.

    `peak` sharpens its choices.
    """

    def __init__(self, vocabulary: int, *, dim: int = 8, peak: float = 3.0, seed: int = 0):
        super().__init__()
        made = torch.Generator().manual_seed(seed)
        self.read = nn.Parameter(torch.randn(vocabulary, dim, generator=made))
        self.write = nn.Parameter(torch.randn(vocabulary, dim, generator=made))
        self.out = nn.Parameter(peak * torch.randn(dim, vocabulary, generator=made))

    def begin(self, source: Tensor) -> Memory:
        read = (self.read[source] * (source != PAD)[..., None]).sum(1)
        return Memory(read, torch.zeros_like(read))

    def step(self, tokens: Tensor, state: Memory) -> tuple[Tensor, Memory]:
        written = 0.7 * state.written.roll(1, -1) + self.write[tokens]
        return (state.source + written).tanh() @ self.out, Memory(state.source, written)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        state, logits = self.begin(source), []
        for column in target.unbind(1):
            now, state = self.step(column, state)
            logits.append(now)
        return torch.stack(logits, 1)


class TinyText(nn.Module):
    """The same without a source: it goes on with texts, and counts how far it has looked."""

    def __init__(self, vocabulary: int, *, seed: int = 0):
        super().__init__()
        self.inner = Tiny(vocabulary, seed=seed)
        self.farthest = 0

    def begin(self, rows: int) -> "Counted":
        return Counted(self.inner.begin(torch.zeros(rows, 1, dtype=torch.int64)), 0)

    def step(self, tokens: Tensor, state: "Counted") -> tuple[Tensor, "Counted"]:
        self.farthest = max(self.farthest, state.steps + 1)
        logits, memory = self.inner.step(tokens, state.memory)
        return logits, Counted(memory, state.steps + 1)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.inner(torch.zeros(len(tokens), 1, dtype=torch.int64), tokens)


@dataclass(frozen=True)
class Counted:
    memory: Memory
    steps: int

    def take(self, rows: Tensor) -> "Counted":
        return Counted(self.memory.take(rows), self.steps)


@dataclass(frozen=True)
class Answer:
    tokens: Tensor
    next: Tensor


class TinyGaps(nn.Module):
    """A bag of words for gaps: logits from the token itself and the mean of all."""

    def __init__(self, vocabulary: int, *, dim: int = 16, seed: int = 0):
        super().__init__()
        made = torch.Generator().manual_seed(seed)
        self.tokens = nn.Parameter(torch.randn(vocabulary, dim, generator=made))
        self.out = nn.Parameter(torch.randn(dim, vocabulary, generator=made))

    def forward(self, tokens: Tensor, segments: Tensor) -> Answer:
        x = self.tokens[tokens]
        x = x + x.mean(1, keepdim=True)
        return Answer(x @ self.out, x.mean(1)[:, :2] + segments.float().mean(1, keepdim=True))


def model(network: nn.Module, task: str, vocabulary: Vocabulary, length: int = 12) -> LanguageModel:
    spec = LanguageSpec(kind=task, vocabulary=vocabulary, length=length)
    return LanguageModel(network, ModelConfig(model="tiny", task="language", spec=spec)).eval()


def log_probability(network: Tiny, source: Tensor, text: tuple[int, ...]) -> float:
    """Of a text with its end, after source (1, S), by one forward pass over all of it."""
    target = torch.tensor([[START, *text]])
    logs = network(source, target).log_softmax(-1)[0]
    return sum(logs[at, token].item() for at, token in enumerate((*text, END)))


def every_text(units: int, longest: int) -> Iterator[tuple[int, ...]]:
    """All texts of at most `longest` tokens, the end included."""
    numbers = range(len(MARKS), len(MARKS) + units)
    for size in range(longest):
        yield from product(numbers, repeat=size)


def ranked(network: Tiny, source: Tensor, *, units: int, longest: int,
           alpha: float) -> list[tuple[float, tuple[int, ...]]]:
    """All texts with their scores, best first: what a beam search that is wide enough must find."""
    found = [(log_probability(network, source, text) / length_penalty(len(text) + 1, alpha), text)
             for text in every_text(units, longest)]
    return sorted(found, reverse=True)
