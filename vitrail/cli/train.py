"""`vitrail train`: settings from flags and a file, then the recipe."""
import json
import os
import signal
import threading
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from vitrail.cli import parse, show
from vitrail.cli.command import Command
from vitrail.core import catalogue
from vitrail.recipes.settings import ClassifySettings
from vitrail.train import signals

USAGE = "vitrail train --data PHOTOS --out RUN [--settings FILE.toml] [--NAME VALUE | NAME=VALUE] ..."


def _parse(name: str, words: Sequence[str]) -> Namespace | None:
    if any(w in ("-h", "--help") for w in words) or not words:
        show.say(parse.page(ClassifySettings, usage=USAGE))
        return None
    settings, common = parse.read(ClassifySettings, words)
    catalogue.find(settings.model)              # a wrong name is found before torch is imported
    return Namespace(task=settings, json=common.json)


def _train(a: Namespace | None) -> int:
    if a is None:
        return 0
    settings: ClassifySettings = a.task
    if "RANK" in os.environ:                        # before torch: what it tells of its own workings in each process
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    with _signals(settings.out):
        from vitrail.recipes.classify import run
        folder = run(settings)
    if os.environ.get("RANK", "0") != "0":          # of the processes of torchrun the first one speaks
        return 0
    told = folder / "evaluation.json"
    scores = json.loads(told.read_text("utf-8"))["scores"] if told.is_file() else {}
    if a.json:
        show.emit({"run": folder, "model": folder / "model", "report": folder / "report.html", "scores": scores})
        return 0
    if top1 := scores.get("top1"):
        value, low, high = (f"{100 * top1[k]:.2f}" for k in ("value", "low", "high"))
        show.say(f"held-out top-1 {value} %, 95 % interval {low} to {high}{_whose(folder)}")
    show.say(f"model   {folder / 'model'}\nreport  {folder / 'report.html'}")
    return 0


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


COMMANDS = {"train": Command(about="Trains a classifier. The same command goes on with a run that was stopped.",
                             run=_train, parse=_parse)}
