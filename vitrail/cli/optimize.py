"""`vitrail optimize`: what rewriting a model for this processor gains, and how far its answers move, on real images."""
import math
from dataclasses import dataclass
from json import dumps
from typing import TYPE_CHECKING

from vitrail.cli.command import Command
from vitrail.cli.opening import check_free, check_inputs, check_model, open_model, set_threads
from vitrail.cli.options import PRECISIONS, FromModel, Overwrites, Precision, Threads, batch
from vitrail.cli.output import log, print_json, print_line, table
from vitrail.core.files import write_file
from vitrail.core.settings import setting

if TYPE_CHECKING:
    from vitrail.deploy.trial import Trial


@dataclass(frozen=True, kw_only=True)
class Settings(Overwrites, Threads, FromModel):
    """Which model, tried how."""

    images: str = setting(metavar="FOLDER", help="real inputs, to compare the answers on and to calibrate int8: a "
                                                 "folder of images, or what a model of text was trained on")
    most: int = setting(64, low=1, high=4096, help="how many of them to take")
    precision: tuple[Precision, ...] = setting(PRECISIONS, metavar="NAME", help="fp32, bf16, int8")
    batch: int = batch(8)
    rounds: int = setting(20, low=1, high=10_000, help="how often each is timed")
    out: str = setting("", metavar="FILE.json", help="write everything there")


def run(a: Settings, *, json: bool) -> int:
    check_model(a.model, a.weights)
    given = check_inputs(a, a.images)
    check_free(a.out, overwrite=a.overwrite)
    model = open_model(a)
    set_threads(a)
    import torch

    from vitrail.deploy.inputs import ModelInputs
    from vitrail.deploy.trial import trials
    from vitrail.measure.machine import machine

    inputs = ModelInputs(model.config).read(given, most=a.most)
    samples = len(inputs[0])
    plain, found = trials(model, inputs, a.precision, batch=a.batch, rounds=a.rounds)
    told = {"model": model.config.model, "machine": machine(torch.device("cpu")), "batch": a.batch,
            "rounds": a.rounds, "samples": samples, "plain_seconds": plain, "trials": [t.to_json() for t in found]}
    if a.out:
        write_file(a.out, dumps(told, indent=1) + "\n", overwrite=a.overwrite)
    if json:
        print_json(told)
        return 0
    _print(a, plain, found, samples)
    if a.out:
        log(f"wrote {a.out}")
    return 0


def _print(a: Settings, plain: float, found: "list[Trial]", samples: int) -> None:
    head = ("precision", "ms", "samples/s", "times as fast", "quartiles", "output moved, %", "same answers, %")
    rows = [("plain", f"{1e3 * plain:.1f}", f"{a.batch / plain:.1f}", "1", "", "", "")]
    for t in found:
        if not t.refused:
            low, high = t.quartiles
            rows.append((t.precision, f"{1e3 * t.seconds:.1f}", f"{a.batch / t.seconds:.1f}", f"{t.ratio:.2f}",
                         f"{low:.2f} to {high:.2f}", f"{100 * t.difference:.2g}",
                         "" if math.isnan(t.agreement) else f"{100 * t.agreement:.1f}"))
    table(head, rows, right=[h for h in head[1:] if h != "quartiles"])
    for t in found:
        if t.refused:
            log(f"{t.precision} is refused: {t.refused}")
        elif t.report and t.report.left:
            log(f"{t.precision} runs as it is: {t.report.left}")
        elif t.report and t.report.stayed:
            log(f"{t.precision}: {len(t.report.stayed)} layers that would have lost too much stayed as they were")
    print_line(f"\nmedians of {a.rounds} rounds of {a.batch} samples, everything in turn; moved: the largest change of "
               f"an output on {samples} samples, of its range.\nEvaluate and predict take --optimize NAME, Python "
               "vitrail.optimize(model, images)")


COMMAND = Command(about="Rewrites a model for this processor and tells what is gained, on real images.",
                  settings=Settings, run=run)
