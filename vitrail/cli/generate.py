"""`vitrail generate`: a text in, a text out. Translates, goes on, or fills gaps, as the model was trained to."""
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitrail.cli import show
from vitrail.cli.command import Command, add_place, whole
from vitrail.cli.opening import beside, place
from vitrail.core.errors import DataError, ModelError, SettingsError, did_you_mean

if TYPE_CHECKING:
    from vitrail.tasks.language.model import LanguageModel

# which option is for which task
OPTIONS = {"beams": "translation", "alpha": "translation", "tokens": "causal", "count": "causal",
           "temperature": "causal", "top_k": "causal", "seed": "causal"}
DOES = {"translation": "translates", "causal": "goes on with texts", "masked": "fills gaps"}


def _generate(a: Namespace) -> int:
    run = Path(a.model).expanduser()
    if not a.model or not run.is_dir():
        raise ModelError(f"there is no folder {a.model!r}.{did_you_mean(run.name, beside(run), least=0.7)} Name the folder "
                         "of a run, or of a saved model")
    texts = _texts(a.text)
    from vitrail.language import load_language_model
    model = load_language_model(run)
    known = model.config
    for name, task in OPTIONS.items():
        if getattr(a, name) is not None and task != known.task:
            raise SettingsError(f"--{name.replace('_', '-')} is for a model that {DOES[task]}, and {known.model} "
                                f"{DOES[known.task]}")
    model = model.to(place(a))
    for text in texts:
        if unknown := known.vocabulary.unknown(text.replace("[MASK]", "") if known.task == "masked" else text):
            show.note(f"{known.model} never saw {', '.join(map(repr, unknown[:8]))}"
                      f"{' and others' if len(unknown) > 8 else ''} when it learned")
    found = {"translation": _translated, "causal": _continued, "masked": _filled}[known.task](model, texts, a)
    if a.json:
        show.emit({"model": known.model, "task": known.task, "answers": found})
    else:
        for answer in found:
            for line in [answer["answer"]] if isinstance(answer["answer"], str) else answer["answer"]:
                show.say(line)
            for gap in answer.get("gaps", []):
                show.note("  ".join(f"{unit!r} {100 * share:.0f} %" for unit, share in gap))
    return 0


def _texts(words: list[str]) -> list[str]:
    """The words as one text; of `-`, each line of standard input."""
    if words != ["-"]:
        return [" ".join(words)]
    try:
        lines = [line for line in sys.stdin.read().splitlines() if line.strip()]
    except UnicodeDecodeError as e:
        raise DataError(f"standard input is not text: {e}") from None
    if not lines:
        raise DataError("standard input holds no text")
    return lines


def _translated(model: "LanguageModel", texts: list[str], a: Namespace) -> list[dict[str, Any]]:
    from vitrail.tasks.language.answer import translate
    beams, alpha = _or(a.beams, 4), _or(a.alpha, 0.6)
    return [{"text": text, "answer": answer} for text, answer in
            zip(texts, translate(model, texts, beams=beams, alpha=alpha), strict=True)]


def _continued(model: "LanguageModel", texts: list[str], a: Namespace) -> list[dict[str, Any]]:
    from vitrail.tasks.language.answer import go_on
    whole = model.config.spec.vocabulary.joined
    return [{"text": text, "answer": [whole((text, more)) for more in go_on(
        model, text, tokens=_or(a.tokens, 200), count=_or(a.count, 1), temperature=_or(a.temperature, 0.8),
        top=_or(a.top_k, 0), seed=_or(a.seed, 0))]} for text in texts]


def _filled(model: "LanguageModel", texts: list[str], a: Namespace) -> list[dict[str, Any]]:
    from vitrail.tasks.language.answer import fill
    found = [fill(model, text) for text in texts]
    return [{"text": text, "answer": one.text, "gaps": [list(gap) for gap in one.gaps]}
            for text, one in zip(texts, found, strict=True)]


def _or(given: Any, usual: Any) -> Any:
    return usual if given is None else given


def _number(low: float, high: float) -> Callable[[str], float]:
    """An argument's type: a number in [low, high]."""
    def check(text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            raise ArgumentTypeError(f"{text!r} is no number") from None
        if not low <= number <= high:
            raise ArgumentTypeError(f"{text} is not in {low:g} to {high:g}")
        return number
    return check


def _arguments(p: ArgumentParser) -> None:
    p.add_argument("model", metavar="RUN", help="the folder of a run that trained a model of text, or of a saved one")
    p.add_argument("text", metavar="TEXT", nargs="+", help="to translate, to go on with, or with [MASK] where units "
                                                           "are to be found; - takes a text from each line of standard "
                                                           "input")
    p.add_argument("--beams", type=whole(1, 1024), metavar="N",
                   help="translate: texts that the search follows at once; 1: the likeliest word each time (4)")
    p.add_argument("--alpha", type=_number(0, 10), metavar="X",
                   help="translate: how much the search favours long texts (0.6)")
    p.add_argument("--tokens", type=whole(1, 1 << 20), metavar="N", help="go on: how far (200)")
    p.add_argument("--count", type=whole(1, 1 << 16), metavar="N", help="go on: in so many ways (1)")
    p.add_argument("--temperature", type=_number(0, 1000), metavar="X",
                   help="go on: 0 takes the likeliest each time, more is bolder (0.8)")
    p.add_argument("--top-k", type=whole(0), metavar="K", help="go on: choose among the K likeliest; 0: all (0)")
    p.add_argument("--seed", type=whole(0), metavar="N", help="go on: of what is drawn (0)")
    add_place(p)


COMMANDS = {"generate": Command(about="Asks a model of text: translates, goes on with a text, or fills [MASK].",
                                run=_generate, arguments=_arguments)}
