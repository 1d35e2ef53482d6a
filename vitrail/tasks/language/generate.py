"""A text in, a text out: what a trained model of language is asked."""
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vitrail.core.errors import DataError, SettingsError
from vitrail.core.task import Options
from vitrail.data.dataset import printable
from vitrail.tasks.language.batches import padded
from vitrail.tasks.language.vocabulary import CLASS, END, MARKS, MASK, SEPARATOR
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
    spec = language_model(model, "translation").config.spec
    rows = [[*token_numbers(model, text, spec.length - 1), END] for text in texts]
    source = padded(rows, max(map(len, rows))).to(_device(model))
    if beams == 1:
        written: list[list[int]] = greedy(model, source, longest=spec.length)
    else:
        written = [list(found[0].tokens) for found in beam(model, source, beams=beams, longest=spec.length,
                                                           alpha=alpha)]
    return [spec.vocabulary.text(row) for row in written]


def go_on(model: LanguageModel, text: str, *, tokens: int = 200, count: int = 1, temperature: float = 0.8,
          top: int = 0, seed: int = 0) -> list[str]:
    """`count` continuations of a text by so many tokens, without the text itself: see `decode.sample`.

    Raises DataError for an empty text.
    """
    spec = language_model(model, "causal").config.spec
    prompt = token_numbers(model, text)
    found = sample(model, prompt, count=count, longest=tokens, window=spec.length, temperature=temperature, top=top,
                   seed=seed, device=_device(model))
    return [spec.vocabulary.text(row) for row in found]


def fill(model: LanguageModel, text: str, *, top: int = 5) -> Filled:
    """A text with [MASK] in the place of units -> the text with the likeliest units there.

    Raises DataError where there is no gap, and for a text longer than those that the model learned from.
    """
    return fill_units(language_model(model, "masked"), gap_tokens(model, text)[0, 1:-1].tolist(), top=top)


@torch.no_grad()
def fill_units(model: LanguageModel, numbers: Sequence[int], *, top: int = 5) -> Filled:
    """The same for the numbers of units, with MASK in the gaps: a unit that the model does not know stays one."""
    spec = model.config.spec
    numbers = list(numbers)
    tokens = torch.tensor([[CLASS, *numbers, SEPARATOR]], device=_device(model))
    answer: Tensor = model(tokens, torch.zeros_like(tokens)).tokens[0, 1:-1]
    logits = answer.float().index_fill(1, torch.tensor([*NEVER, END], device=answer.device), -torch.inf)
    gaps = []
    for at in (i for i, number in enumerate(numbers) if number == MASK):
        shares, units = logits[at].softmax(-1).topk(min(top, len(spec.vocabulary.units)))
        numbers[at] = int(units[0])
        gaps.append(tuple((spec.vocabulary.unit(u), p) for u, p in zip(units.tolist(), shares.tolist(), strict=True)))
    return Filled(spec.vocabulary.text(numbers), tuple(gaps))


# which option is for which kind of model, and what those do
ASKED = {"beams": "translation", "alpha": "translation", "tokens": "causal", "count": "causal",
         "temperature": "causal", "top_k": "causal", "seed": "causal"}
DOES = {"translation": "translates", "causal": "goes on with texts", "masked": "fills gaps"}


@dataclass(frozen=True, kw_only=True)
class Generated:
    """The answers to one text. gaps: for each gap that was filled, the likeliest units with their probabilities.
    unknown: what of the text the model never saw when it learned."""

    key: str
    answers: tuple[str, ...] = ()
    gaps: tuple[tuple[tuple[str, float], ...], ...] = ()
    unknown: tuple[str, ...] = ()
    error: str | None = None

    def to_json(self) -> dict[str, Any]:
        answer = self.answers[0] if len(self.answers) == 1 else list(self.answers)
        gaps = {"gaps": [list(gap) for gap in self.gaps]} if self.gaps else {}
        return {"text": self.key, "answer": answer, **gaps}

    def rows(self) -> list[dict[str, str]]:
        return [{"text": self.key, "answer": answer} for answer in self.answers]

    def lines(self) -> list[str]:
        """The answers, as they are printed."""
        return list(self.answers)

    def notes(self) -> list[str]:
        """What else is worth knowing: the likeliest units for each gap."""
        return ["  ".join(f"{unit!r} {100 * share:.0f} %" for unit, share in gap) for gap in self.gaps]

    def draw(self, image: Any) -> Any:
        """A text has no picture: what it is given comes back."""
        return image


def generate(model: LanguageModel, prompts: Sequence[str], options: Options | None = None,
             asked: Mapping[str, Any] | None = None) -> Iterator[Generated]:
    """An answer to each text, as the model was trained to give: a translation, continuations, or what fills the gaps.

    asked: of `beams` and `alpha` (translation, see `translate`), `tokens`, `count`, `temperature`, `top_k` and `seed`
    (going on with a text, see `go_on`), those that the user gave. Raises SettingsError for an option of another kind of
    model, DataError for an empty text, one without a gap, or one that is too long.

    >>> next(generate(model, ["the old cat sees a dog."])).answers          # doctest: +SKIP
    ('mira solda la kanom un vide.',)
    """
    spec = model.config.spec
    given = {name: value for name, value in (asked or {}).items() if value is not None}
    for name in given:
        if ASKED.get(name) != spec.kind:
            kind = ASKED.get(name)
            raise SettingsError(f"--{name.replace('_', '-')} is for a model that {DOES[kind]}, and "
                                f"{model.config.model} "
                                f"{DOES[spec.kind]}" if kind else f"there is no option {name!r} for a text")
    model = model.to((options or Options()).device)
    if spec.kind == "translation":
        answers = translate(model, prompts, beams=given.get("beams", 4), alpha=given.get("alpha", 0.6))
        for text, answer in zip(prompts, answers, strict=True):
            yield Generated(key=text, answers=(answer,), unknown=tuple(spec.vocabulary.unknown(text)))
    for text in prompts:
        if spec.kind == "causal":
            more = go_on(model, text, tokens=given.get("tokens", 200), count=given.get("count", 1),
                         temperature=given.get("temperature", 0.8), top=given.get("top_k", 0),
                         seed=given.get("seed", 0))
            yield Generated(key=text, answers=tuple(spec.vocabulary.joined((text, part)) for part in more),
                            unknown=tuple(spec.vocabulary.unknown(text)))
        elif spec.kind == "masked":
            filled = fill(model, text)
            yield Generated(key=text, answers=(filled.text,), gaps=filled.gaps,
                            unknown=tuple(spec.vocabulary.unknown(text.replace(GAP, ""))))


def gap_tokens(model: LanguageModel, text: str) -> Tensor:
    """A text with gaps as the model reads it, (1, N), with MASK where a unit is to be found. Raises DataError."""
    spec = model.config.spec
    parts = text.split(GAP)
    if len(parts) == 1:
        raise DataError(f"{printable(text[:80])!r} has no gap: write {GAP} where a unit is to be found")
    numbers = [n for part in parts for n in (*spec.vocabulary.numbers(part), MASK)][:-1]
    if len(numbers) > spec.length - 2:
        raise DataError(f"a text of {len(numbers)} {spec.vocabulary.kind} is longer than the {spec.length - 2} that "
                        f"{model.config.model} learned from")
    return torch.tensor([[CLASS, *numbers, SEPARATOR]], device=_device(model))


def token_numbers(model: LanguageModel, text: str, most: int = 1 << 30) -> list[int]:
    """A text as numbers. Raises DataError for an empty one, and one of more than `most` units."""
    spec = model.config.spec
    numbers = spec.vocabulary.numbers(text)
    if not numbers:
        raise DataError(f"{printable(text[:80])!r}: there is no text to begin with")
    if len(numbers) > most:
        raise DataError(f"a text of {len(numbers)} {spec.vocabulary.kind} is longer than the {most} that "
                        f"{model.config.model} learned from: give it in parts")
    return numbers


def _device(model: LanguageModel) -> torch.device:
    return next(model.parameters()).device
