"""`vitrail train`: settings of the task from flags and a file, then the recipe."""
import json
import math
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
from vitrail.core.score import Score
from vitrail.core.task import Task, find_task, task_names
from vitrail.training import signals

USAGE = "vitrail train --data DATA --out RUN [--model NAME] [--settings FILE.toml] [--NAME VALUE | NAME=VALUE] ..."


def _parse(name: str, words: Sequence[str]) -> Namespace | None:
    task = _task(words)
    if not words or any(w in ("-h", "--help") for w in words):
        others = ", ".join(other for other in task_names() if other != task.name)
        show.say(f"{parse.page(task.settings.target, usage=USAGE)}\n\nThese are the settings of the task {task.name}, "
                 f"which the model or --task NAME chooses. Other tasks have settings of their own: {others}.")
        return None
    settings, common = parse.read(task.settings.target, words)
    catalogue.find(settings.model.name)              # a wrong name is found before torch is imported
    return Namespace(task=task, settings=settings, json=common.json)


def _task(words: Sequence[str]) -> Task:
    """The task that the words name, or that of the model which they name; the first of all where they name none."""
    if named := parse.given("task", words):
        return find_task(str(named))
    entry = catalogue.entries().get(str(parse.given("model", words)))
    return find_task(entry.tasks[0] if entry is not None and entry.tasks else task_names()[0])


def _train(a: Namespace | None) -> int:
    if a is None:
        return 0
    task: Task = a.task
    if "RANK" in os.environ:                        # before torch: what it logs of its own workings in each process
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    with _signals(a.settings.out):
        from vitrail.recipes.train import train
        folder = train(task, a.settings)
    if os.environ.get("RANK", "0") != "0":          # of the processes of torchrun the first one speaks
        return 0
    page = folder / "evaluation.json"
    evaluation = json.loads(page.read_text("utf-8")) if page.is_file() else {}
    scores = evaluation.get("scores", {})
    if a.json:
        show.emit({"run": folder, "model": folder / "model", "scores": scores, "report": folder / "report.html"})
        return 0
    if scores:
        show.say(f"held out: {_line(task, scores)}{_whose(folder)}")
    for name, simple in evaluation.get("baselines", {}).items():
        show.say(f"{name}: {_line(task, {score: {'value': value} for score, value in simple.items()})}")
    show.say(f"model   {folder / 'model'}\nreport  {folder / 'report.html'}")
    return 0


def _line(task: Task, scores: Mapping[str, Mapping[str, float]]) -> str:
    """Scores in a line, the headline first: `top-1 accuracy 98.05 % (96.03 to 99.06)`."""
    names = [task.headline, *(name for name in scores if name != task.headline)] if task.headline in scores else scores
    words = []
    for name in names:
        metric = task.metric(name)
        score = Score(scores[name]["value"], scores[name].get("low", math.nan), scores[name].get("high", math.nan))
        interval = metric.interval(score)
        words.append(f"{metric.label} {metric.value(score)}" + (f" ({interval})" if interval else ""))
    return ", ".join(words)


def _whose(run: Path) -> str:
    """Which weights were judged, as the run's metadata say it."""
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
