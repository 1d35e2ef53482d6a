"""A text in, a text out: what a trained model of text is asked."""
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vitrail.core.errors import DataError
from vitrail.data.source import printable
from vitrail.data.text.batches import padded
from vitrail.data.text.vocabulary import CLASS, END, MARKS, MASK, SEPARATOR
from vitrail.tasks.language.decode import NEVER, beam, greedy, sample
from vitrail.tasks.language.model import LanguageModel, language_model

GAP = MARKS[MASK]


@dataclass(frozen=True)
class Filled:
    """A text whose gaps are filled, and for each gap the likeliest units with their probabilities, best first."""

    text: str
    gaps: tuple[tuple[tuple[str, float], ...], ...]


def translate(model: LanguageModel, texts: Sequence[str], *, beams: int = 1, alpha: float = 0.6) -> list[str]:
    """Each text in the other language. beams: 1 takes the likeliest word at each step, more search (`decode.beam`).

    Raises DataError for an empty text and one longer than those that the model learned from.
    """
    known = language_model(model, "translation").config
    rows = [[*_numbers(model, text, known.length - 1), END] for text in texts]
    source = padded(rows, max(map(len, rows))).to(_device(model))
    if beams == 1:
        written: list[list[int]] = greedy(model, source, longest=known.length)
    else:
        written = [list(found[0].tokens) for found in beam(model, source, beams=beams, longest=known.length,
                                                           alpha=alpha)]
    return [known.vocabulary.text(row) for row in written]


def go_on(model: LanguageModel, text: str, *, tokens: int = 200, count: int = 1, temperature: float = 0.8,
          top: int = 0, seed: int = 0) -> list[str]:
    """`count` continuations of a text by so many tokens, without the text itself: see `decode.sample`.

    Raises DataError for an empty text.
    """
    known = language_model(model, "causal").config
    prompt = _numbers(model, text)
    found = sample(model, prompt, count=count, longest=tokens, window=known.length, temperature=temperature, top=top,
                   seed=seed, device=_device(model))
    return [known.vocabulary.text(row) for row in found]


@torch.no_grad()
def fill(model: LanguageModel, text: str, *, top: int = 5) -> Filled:
    """A text with [MASK] in the place of units -> the text with the likeliest units there.

    Raises DataError where there is no gap, and for a text longer than those that the model learned from.
    """
    known = language_model(model, "masked").config
    parts = text.split(GAP)
    if len(parts) == 1:
        raise DataError(f"{printable(text[:80])!r} has no gap: write {GAP} where a unit is to be found")
    numbers = [n for part in parts for n in (*known.vocabulary.numbers(part), MASK)][:-1]
    if len(numbers) > known.length - 2:
        raise DataError(f"a text of {len(numbers)} {known.vocabulary.kind} is longer than the {known.length - 2} that "
                        f"{known.model} learned from")
    tokens = torch.tensor([[CLASS, *numbers, SEPARATOR]], device=_device(model))
    answer: Tensor = model(tokens, torch.zeros_like(tokens)).tokens[0, 1:-1]
    logits = answer.float().index_fill(1, torch.tensor([*NEVER, END], device=answer.device), -torch.inf)
    gaps = []
    for at in (i for i, number in enumerate(numbers) if number == MASK):
        shares, units = logits[at].softmax(-1).topk(min(top, len(known.vocabulary.units)))
        numbers[at] = int(units[0])
        gaps.append(tuple((known.vocabulary.unit(u), p) for u, p in zip(units.tolist(), shares.tolist(), strict=True)))
    return Filled(known.vocabulary.text(numbers), tuple(gaps))


def _numbers(model: LanguageModel, text: str, most: int = 1 << 30) -> list[int]:
    known = model.config
    numbers = known.vocabulary.numbers(text)
    if not numbers:
        raise DataError(f"{printable(text[:80])!r}: there is no text to begin with")
    if len(numbers) > most:
        raise DataError(f"a text of {len(numbers)} {known.vocabulary.kind} is longer than the {most} that "
                        f"{known.model} learned from: give it in parts")
    return numbers


def _device(model: LanguageModel) -> torch.device:
    return next(model.parameters()).device
