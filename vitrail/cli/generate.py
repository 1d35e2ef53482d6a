"""`vitrail generate`: a text in, a text out. Translates, goes on, or fills gaps, as the model was trained to."""
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vitrail.cli.command import Command
from vitrail.cli.opening import beside, place
from vitrail.cli.options import OnDevice
from vitrail.cli.output import log, print_json, print_line
from vitrail.core.errors import DataError, ModelError, did_you_mean
from vitrail.core.settings import setting
from vitrail.core.task import Options, task_of

ASKED = ("beams", "alpha", "tokens", "count", "temperature", "top_k", "seed")       # a task refuses what is not its own


@dataclass(frozen=True, kw_only=True)
class Settings(OnDevice):
    """Which model is asked what."""

    model: str = setting(positional=True, metavar="RUN", help="the folder of a run that trained a model of text, or of "
                                                              "a saved one")
    text: tuple[str, ...] = setting(
        positional=True, metavar="TEXT",
        help="to translate, to go on with, or with [MASK] where units are to be found; - takes a text from each line "
             "of standard input")
    beams: int | None = setting(None, low=1, high=1024, help="translate: texts that the search follows at once; 1: the "
                                                             "likeliest word each time (4)")
    alpha: float | None = setting(None, low=0, high=10, help="translate: how much the search favours long texts (0.6)")
    tokens: int | None = setting(None, low=1, high=1 << 20, help="go on: how far (200)")
    count: int | None = setting(None, low=1, high=1 << 16, help="go on: in so many ways (1)")
    temperature: float | None = setting(None, low=0, high=1000, help="go on: 0 takes the likeliest each time, more is "
                                                                     "bolder (0.8)")
    top_k: int | None = setting(None, low=0, high=1 << 30, metavar="K", help="go on: choose among the K likeliest; 0: "
                                                                             "all (0)")
    seed: int | None = setting(None, low=0, high=1 << 30, help="go on: of what is drawn (0)")


def run(a: Settings, *, json: bool) -> int:
    folder = Path(a.model).expanduser()
    if not a.model or not folder.is_dir():
        raise ModelError(f"there is no folder {a.model!r}.{did_you_mean(folder.name, beside(folder), least=0.7)} Name "
                         "the folder of a run, or of a saved model")
    prompts = _texts(a.text)
    from vitrail.models import load_config, load_model

    task = task_of(load_config(folder))
    generate = task.require("generate")
    model = load_model(folder)
    asked = {name: getattr(a, name) for name in ASKED if getattr(a, name) is not None}
    answers = list(generate(model, prompts, Options(device=place(a)), asked))
    for answer in answers:
        if unknown := answer.unknown:
            log(f"{model.config.model} never saw {', '.join(map(repr, unknown[:8]))}"
                f"{' and others' if len(unknown) > 8 else ''} when it learned")
    if json:
        print_json({"model": model.config.model, "task": task.name,
                    "answers": [answer.to_json() for answer in answers]})
        return 0
    for answer in answers:
        for line in answer.lines():
            print_line(line)
        for note in answer.notes():
            log(note)
    return 0


def _texts(words: Sequence[str]) -> list[str]:
    """The words as one text; of `-`, each line of standard input."""
    if tuple(words) != ("-",):
        return [" ".join(words)]
    try:
        lines = [line for line in sys.stdin.read().splitlines() if line.strip()]
    except UnicodeDecodeError as e:
        raise DataError(f"standard input is not text: {e}") from None
    if not lines:
        raise DataError("standard input holds no text")
    return lines


COMMAND = Command(about="Asks a model of text: translates, goes on with a text, or fills [MASK].", settings=Settings,
                  run=run)
