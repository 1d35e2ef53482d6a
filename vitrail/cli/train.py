"""`vitrail train`: settings from flags and a file, then the recipe."""
import json
import os
import signal
import threading
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from vitrail.cli import parse, show
from vitrail.cli.command import Command
from vitrail.core import catalogue
from vitrail.recipes.settings import ClassifySettings
from vitrail.recipes.text_settings import TextSettings
from vitrail.train import signals

USAGE = "vitrail train --data PHOTOS --out RUN [--settings FILE.toml] [--NAME VALUE | NAME=VALUE] ..."
TEXTS = USAGE.replace("--data PHOTOS", "--model gpt_tiny --data FILE.txt")
OF_TEXT = "models of text (transformer_tiny, gpt_tiny, bert_tiny, ...) have settings of their own:\n" \
          "  vitrail train --model gpt_tiny --help"


def _parse(name: str, words: Sequence[str]) -> Namespace | None:
    asked = any(w in ("-h", "--help") for w in words) or not words
    if asked and _kind(words) is TextSettings:
        show.say(parse.page(TextSettings, usage=TEXTS))
    elif asked:
        show.say(f"{parse.page(ClassifySettings, usage=USAGE)}\n\n{OF_TEXT}")
    if asked:
        return None
    settings, common = parse.read(_kind(words), words)
    catalogue.find(settings.model)              # a wrong name is found before torch is imported
    return Namespace(task=settings, json=common.json)


def _kind(words: Sequence[str]) -> type[ClassifySettings] | type[TextSettings]:
    """The settings of the recipe that trains the model which the words name."""
    entry = catalogue.entries().get(str(parse.given("model", words)))
    return TextSettings if entry is not None and entry.kind == "foundation" else ClassifySettings


def _train(a: Namespace | None) -> int:
    if a is None:
        return 0
    settings: ClassifySettings | TextSettings = a.task
    if "RANK" in os.environ:                        # before torch: what it tells of its own workings in each process
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    with _signals(settings.out):
        folder = _run(settings)
    if os.environ.get("RANK", "0") != "0":          # of the processes of torchrun the first one speaks
        return 0
    told, report = folder / "evaluation.json", folder / "report.html"
    found = json.loads(told.read_text("utf-8")) if told.is_file() else {}
    scores = found.get("scores", {})
    if a.json:
        show.emit({"run": folder, "model": folder / "model", "scores": scores,
                   **({"report": report} if report.is_file() else {"evaluation": told})})
        return 0
    if top1 := scores.get("top1"):
        value, low, high = (f"{100 * top1[k]:.2f}" for k in ("value", "low", "high"))
        show.say(f"held-out top-1 {value} %, 95 % interval {low} to {high}{_whose(folder)}")
    elif scores:
        show.say(f"held out: {_line(scores)}{_whose(folder)}")
    for name, simple in found.get("baselines", {}).items():
        show.say(f"{name}: {_line({score: {'value': value} for score, value in simple.items()})}")
    show.say(f"model   {folder / 'model'}\n{'report ' if report.is_file() else 'answers'} "
             f"{report if report.is_file() else told}")
    return 0


def _run(settings: ClassifySettings | TextSettings) -> Path:
    if isinstance(settings, TextSettings):
        from vitrail.recipes import text
        return text.run(settings)
    from vitrail.recipes import classify
    return classify.run(settings)


def _line(scores: Mapping[str, Mapping[str, float]]) -> str:
    """Scores of a model of text: `perplexity 1.113, accuracy 99.98 %, exact 99.83 % (99.06 to 99.97)`."""
    said = []
    for name, score in scores.items():
        scale, unit = (1, "") if name == "perplexity" else (100, " %")
        between = f" ({100 * score['low']:.2f} to {100 * score['high']:.2f})" if "low" in score else ""
        said.append(f"{name} {scale * score['value']:.4g}{unit}{between}")
    return ", ".join(said)


def _whose(run: Path) -> str:
    """Which weights were judged, as the run's papers say it."""
    end = json.loads((run / "run.json").read_text("utf-8")).get("finished") or {}
    return f"; the weights of step {end['chosen']} of {end['steps']}" if {"chosen", "steps"} <= set(end) else ""


@contextmanager
def _signals(out: str) -> Iterator[None]:
    """Before its first step and after its last a run has nothing to save; inside them the loop listens itself."""
    said = f"; the same command goes on with {out}, or starts it where nothing was saved yet"

    def stop(number: int, frame: FrameType | None) -> None:
        raise signals.Stopped(f"stopped by SIGTERM{said}")

    main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, stop) if main else None
    try:
        yield
    except KeyboardInterrupt:
        raise signals.Interrupted(f"stopped by Ctrl-C{said}") from None
    finally:
        if main:
            signal.signal(signal.SIGTERM, before if before is not None else signal.SIG_DFL)


COMMANDS = {"train": Command(about="Trains a model. The same command goes on with a run that was stopped.",
                             run=_train, parse=_parse)}
