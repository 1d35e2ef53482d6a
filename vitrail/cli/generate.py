"""`vitrail generate`: a text in, a text out. Translates, goes on, or fills gaps, as the model was trained to."""
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable
from pathlib import Path

from vitrail.cli import show
from vitrail.cli.command import Command, add_place, whole
from vitrail.cli.opening import beside, place
from vitrail.core.errors import DataError, ModelError, did_you_mean
from vitrail.core.task import Options, task_of

ASKED = ("beams", "alpha", "tokens", "count", "temperature", "top_k", "seed")       # a task refuses what is not its own


def _generate(a: Namespace) -> int:
    run = Path(a.model).expanduser()
    if not a.model or not run.is_dir():
        raise ModelError(f"there is no folder {a.model!r}.{did_you_mean(run.name, beside(run), least=0.7)} Name the "
                         "folder of a run, or of a saved model")
    prompts = _texts(a.text)
    from vitrail.models import load_config, load_model

    task = task_of(load_config(run))
    generate = task.require("generate")
    model = load_model(run)
    asked = {name: getattr(a, name) for name in ASKED if getattr(a, name) is not None}
    answers = list(generate(model, prompts, Options(device=place(a)), asked))
    for answer in answers:
        if unknown := answer.unknown:
            show.note(f"{model.config.model} never saw {', '.join(map(repr, unknown[:8]))}"
                      f"{' and others' if len(unknown) > 8 else ''} when it learned")
    if a.json:
        show.emit({"model": model.config.model, "task": task.name, "answers": [answer.to_json() for answer in answers]})
        return 0
    for answer in answers:
        for line in answer.lines():
            show.say(line)
        for note in answer.notes():
            show.note(note)
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
