"""`vitrail train`: settings from flags and a file, then the recipe."""
import math
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from json import loads
from pathlib import Path
from types import FrameType

from vitrail.cli import parse
from vitrail.cli.command import Command
from vitrail.cli.output import print_json, print_line
from vitrail.core import catalogue
from vitrail.core.score import Score
from vitrail.core.task import Task, task_for
from vitrail.training import signals
from vitrail.training.settings import RunSettings

MORE = """for example:
  vitrail train --model deit_ti16 --data PHOTOS --out RUN
  vitrail train --model gpt_tiny --data FILE.txt --out RUN

the model, or --task NAME, chooses what is learned; each task has settings of its own:
  vitrail train --model gpt_tiny --help"""


def _settings(words: Sequence[str]) -> type[RunSettings]:
    kind: type[RunSettings] = parse.task_of(words).settings_type
    return kind


def run(settings: RunSettings, *, json: bool) -> int:
    catalogue.find(settings.model.name)             # a wrong name is found before torch is imported
    task = task_for(settings.model.name, settings.task)
    if "RANK" in os.environ:                        # before torch: what it logs of its own workings in each process
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    with _signals(settings.out):
        from vitrail.recipes.train import train
        folder = train(task, settings)
    if os.environ.get("RANK", "0") != "0":          # of the processes of torchrun the first one speaks
        return 0
    page = folder / "evaluation.json"
    evaluation = loads(page.read_text("utf-8")) if page.is_file() else {}
    scores = evaluation.get("scores", {})
    if json:
        print_json({"run": folder, "model": folder / "model", "scores": scores, "report": folder / "report.html"})
        return 0
    if scores:
        print_line(f"held out: {_line(task, scores)}{_whose(folder)}")
    for name, simple in evaluation.get("baselines", {}).items():
        print_line(f"{name}: {_line(task, {score: {'value': value} for score, value in simple.items()})}")
    print_line(f"model   {folder / 'model'}\nreport  {folder / 'report.html'}")
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
    """Which weights were judged, as the run's papers say it."""
    end = loads((run / "run.json").read_text("utf-8")).get("finished") or {}
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


COMMAND = Command(about="Trains a model. The same command goes on with a run that was stopped.", settings=_settings,
                  run=run, more=MORE)
