"""What the verbs ask of a language model's output, and what they feed it."""
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vitrail.core.config import ModelConfig
from vitrail.core.errors import ExplainError, ExportError
from vitrail.tasks.language.batches import padded
from vitrail.tasks.language.corpus import Text, open_pairs, open_text
from vitrail.tasks.language.samples import CausalSamples, MaskedSamples, PairSamples
from vitrail.tasks.language.vocabulary import START


class SourceTarget(NamedTuple):
    """What a translator takes: source (B, S), and the target so far (B, T), which begins with START."""

    source: Tensor
    target: Tensor


class Tokens(NamedTuple):
    """What a model that goes on with a text takes: (B, N)."""

    tokens: Tensor


class TokensSegments(NamedTuple):
    """What a model that fills gaps takes: tokens (B, N), and which segment each is of, (B, N)."""

    tokens: Tensor
    segments: Tensor


Inputs = SourceTarget | Tokens | TokensSegments


def logits_of(output: Any) -> Tensor:
    """(B, N, V), of whichever kind the output is."""
    logits: Tensor = output if isinstance(output, Tensor) else output.tokens
    return logits


def score(output: Any, target: Tensor) -> Tensor:
    """The logit of one unit at one place of each text: `target` (B, 2) holds place and unit -> (B,)."""
    logits = logits_of(output)
    rows = torch.arange(len(logits), device=logits.device)
    return logits[rows, target[:, 0], target[:, 1]]


def targets(model: Any, output: Any, target: tuple[int, int] | int | None) -> tuple[Tensor, tuple[str, ...], Tensor]:
    """What is asked about: place and unit (B, 2), the units' names, and their probabilities (B,).

    target: a place, whose likeliest unit is asked about, or a place and a unit; the last place, unless given.
    """
    logits = logits_of(output)
    place, unit = target if isinstance(target, tuple) else (-1 if target is None else target, None)
    if not -logits.shape[1] <= place < logits.shape[1]:
        raise ExplainError(f"there is no place {place} in a text of {logits.shape[1]} tokens")
    place %= logits.shape[1]
    units = logits[:, place].argmax(-1) if unit is None else torch.full_like(logits[:, 0, 0], unit, dtype=torch.long)
    chosen = torch.stack([torch.full_like(units, place), units], 1)
    probabilities = logits[:, place].double().softmax(-1).gather(1, units[:, None])[:, 0]
    return chosen, tuple(model.config.spec.vocabulary.unit(number) for number in units.tolist()), probabilities


def agreement(output: Any, other: Any) -> float:
    """The share of tokens for which both prefer the same unit."""
    return float((logits_of(output).argmax(-1) == logits_of(other).argmax(-1)).float().mean())


def example_inputs(config: ModelConfig, batch: int = 1, size: int | None = None) -> Inputs:
    """Texts of START alone, half as long as the model knows unless `size` tokens are asked for."""
    length = size or max(2, config.spec.length // 2)
    tokens = torch.full((batch, length), START)
    if config.spec.kind == "translation":
        return SourceTarget(tokens, tokens.clone())
    if config.spec.kind == "causal":
        return Tokens(tokens)
    return TokensSegments(tokens, torch.zeros_like(tokens))


def read_inputs(config: ModelConfig, data: Any, *, most: int = 32, size: int | None = None) -> Iterator[Inputs]:
    """Real texts as the model takes them, one each, all of `size` tokens (the longest that it knows, unless given).

    data: a name or file as `vitrail train --data` takes it, or texts. Raises DataError for what cannot be read,
    ExportError where there is none.
    """
    spec = config.spec
    length = size or spec.length
    dataset = _dataset(config, data)
    if not len(dataset):
        raise ExportError("the answers are compared on real texts, and there are none: give some, or a file of them")
    for index in range(min(most, len(dataset))):
        batch = dataset.batch([index], 0, slice(0, 1))
        if spec.kind == "translation":
            yield SourceTarget(_wide(batch.source, length), _wide(batch.target, length))
        elif spec.kind == "causal":
            yield Tokens(_wide(batch.tokens, length))
        else:
            yield TokensSegments(_wide(batch.tokens, length), _wide(batch.segments, length))


def _dataset(config: ModelConfig, data: Any) -> Any:
    spec = config.spec
    if spec.kind == "translation":
        return PairSamples(open_pairs(str(data), sentences=200), spec.vocabulary, length=spec.length)
    text = open_text(str(data), sentences=200) if isinstance(data, str | Path) else _joined(data)
    if spec.kind == "causal":
        return CausalSamples(text, spec.vocabulary, length=spec.length, stride=spec.length)
    return MaskedSamples(text, spec.vocabulary, length=spec.length, stride=spec.length - 3, seed=0)


def _joined(texts: Sequence[str]) -> Text:
    return Text("the texts given", tuple(texts))


def _wide(tokens: Tensor, length: int) -> Tensor:
    """(1, N) filled up, or cut, to (length,)."""
    return padded([tokens[0, :length].tolist()], length)[0]

