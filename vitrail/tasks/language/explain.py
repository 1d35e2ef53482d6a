"""What each word of an answer rests on."""
from typing import Any

import torch
from torch import Tensor

from vitrail.core.errors import DataError, ExplainError
from vitrail.explanation.sequences import TokenExplanation, TokenTarget, explain_tokens
from vitrail.tasks.language.answers import logits_of
from vitrail.tasks.language.decode import greedy
from vitrail.tasks.language.generate import gap_tokens, token_numbers
from vitrail.tasks.language.model import LanguageModel
from vitrail.tasks.language.vocabulary import END, MASK, START

Place = tuple[int, int]                     # a place of the output, and the unit in question there
# inputs, what is explained, names of tokens
Asked = tuple[tuple[Tensor, ...], list[TokenTarget], dict[str, list[str]]]


def explain_text(model: LanguageModel, text: str, *, method: str = "relevance", target: Any = None) -> TokenExplanation:
    """What an answer to a text rests on, a row for each thing explained.

    A translator's every word rests on words of the source and on those written before it; what a causal model would
    write next rests on the text; a gap's unit rests on the text around it.

    method: "relevance", "rollout" or "attention" (see `explain_tokens`). target: a unit to explain in place of the
    likeliest one, where one thing alone is explained: the next unit, or the unit of the only gap.

    Raises DataError for an empty text, one that is too long and one without a gap, ExplainError for another method, an
    unknown unit, and a target where several things are explained.

    >>> explanation = explain_text(translator, "the old cat sees a dog.")           # doctest: +SKIP
    >>> explanation.relevance["source"].shape
    (7, 7)
    """
    if not isinstance(text, str):
        raise DataError(f"a {type(text).__name__} is not a text")
    asks = {"translation": _translation, "causal": _next, "masked": _gaps}[model.config.spec.kind]
    inputs, targets, names = asks(model.eval(), text)
    if target is not None:
        if len(targets) != 1:
            raise ExplainError(f"{len(targets)} units are explained here, each as the model would write it; a target "
                               "is for one alone")
        number = _unit(model, target)
        value = (targets[0].value[0], number)
        targets = [TokenTarget(value=value, tokens=targets[0].tokens, index=targets[0].index, name=str(target))]
    explanation: TokenExplanation = explain_tokens(model, inputs, _log_probability, targets, method=method,
                                                   tokens=names)
    return explanation


def _log_probability(output: Any, value: Place) -> Tensor:
    """Of the unit at its place: (B,)."""
    place, unit = value
    return logits_of(output)[:, place].log_softmax(-1)[:, unit]


def _translation(model: LanguageModel, text: str) -> Asked:
    spec = model.config.spec
    source = torch.tensor([[*token_numbers(model, text, spec.length - 1), END]], device=_device(model))
    with torch.no_grad():
        produced = list(greedy(model, source, longest=spec.length)[0])
    read = torch.tensor([[START, *produced[:-1]]] if produced else [[START]], device=source.device)
    unit = spec.vocabulary.unit
    targets = [TokenTarget(value=(place, number), tokens="target", index=place, name=unit(number))
               for place, number in enumerate(produced or [END])]
    names = {"source": [unit(number) for number in source[0].tolist()],
             "target": [unit(number) for number in read[0].tolist()]}
    return (source, read), targets, names


def _next(model: LanguageModel, text: str) -> Asked:
    spec = model.config.spec
    tokens = torch.tensor([[START, *token_numbers(model, text)][-spec.length:]], device=_device(model))
    last = tokens.shape[1] - 1
    with torch.no_grad():
        likeliest = int(logits_of(model(tokens))[0, last].argmax())
    unit = spec.vocabulary.unit
    return (tokens,), [TokenTarget(value=(last, likeliest), tokens="text", index=last, name=unit(likeliest))], {
        "text": [unit(number) for number in tokens[0].tolist()]}


def _gaps(model: LanguageModel, text: str) -> Asked:
    tokens = gap_tokens(model, text)
    segments = torch.zeros_like(tokens)
    with torch.no_grad():
        likeliest = logits_of(model(tokens, segments))[0].argmax(-1).tolist()
    unit = model.config.spec.vocabulary.unit
    numbers = tokens[0].tolist()
    targets = [TokenTarget(value=(place, likeliest[place]), tokens="text", index=place, name=unit(likeliest[place]))
               for place, number in enumerate(numbers) if number == MASK]
    return (tokens, segments), targets, {"text": [unit(number) for number in numbers]}


def _unit(model: LanguageModel, target: Any) -> int:
    vocabulary = model.config.spec.vocabulary
    numbers = vocabulary.numbers(str(target))
    if len(numbers) != 1 or vocabulary.unknown(str(target)):
        raise ExplainError(f"{model.config.model} does not know {target!r} as one of its {vocabulary.kind}")
    return int(numbers[0])


def _device(model: LanguageModel) -> torch.device:
    return next(model.parameters()).device
