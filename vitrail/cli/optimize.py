"""`vitrail optimize`: what rewriting a model for this processor gains, and how far its answers move, on real images."""
import json
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from vitrail.cli import show
from vitrail.cli.command import PRECISIONS, Command, add_batch, add_model, add_out, add_threads, one_of, whole
from vitrail.cli.opening import check_free, check_images, check_model, open_model, set_threads
from vitrail.core.files import write_file

if TYPE_CHECKING:
    from vitrail.deploy.trial import Trial


def _optimize(a: Namespace) -> int:
    check_model(a.model, a.weights)
    check_images([a.images])
    check_free(a.out, overwrite=a.overwrite)
    model = open_model(a)
    set_threads(a)
    import torch

    from vitrail.deploy.trial import trials
    from vitrail.deploy.verify import Images
    from vitrail.measure.machine import machine

    preprocessing = model.config.spec.preprocessing
    pixels = Images(Path(a.images).expanduser(), preprocessing, most=a.most).at(preprocessing.size)
    plain, found = trials(model, pixels, a.precision, batch=a.batch, rounds=a.rounds)
    told = {"model": model.config.model, "machine": machine(torch.device("cpu")), "batch": a.batch,
            "rounds": a.rounds, "images": len(pixels), "plain_seconds": plain, "trials": [t.to_json() for t in found]}
    if a.out:
        write_file(a.out, json.dumps(told, indent=1) + "\n", overwrite=a.overwrite)
    if a.json:
        show.emit(told)
        return 0
    _print(a, plain, found, len(pixels))
    if a.out:
        show.note(f"wrote {a.out}")
    return 0


def _print(a: Namespace, plain: float, found: "list[Trial]", images: int) -> None:
    head = ("precision", "ms", "images/s", "times as fast", "quartiles", "logits moved, %", "same answers, %")
    rows = [("plain", f"{1e3 * plain:.1f}", f"{a.batch / plain:.1f}", "1", "", "", "")]
    for t in found:
        if not t.refused:
            low, high = t.quartiles
            rows.append((t.precision, f"{1e3 * t.seconds:.1f}", f"{a.batch / t.seconds:.1f}", f"{t.ratio:.2f}",
                         f"{low:.2f} to {high:.2f}", f"{100 * t.difference:.2g}", f"{100 * t.agreement:.1f}"))
    show.table(head, rows, right=[h for h in head[1:] if h != "quartiles"])
    for t in found:
        if t.refused:
            show.note(f"{t.precision} is refused: {t.refused}")
        elif t.report and t.report.left:
            show.note(f"{t.precision} runs as it is: {t.report.left}")
        elif t.report and t.report.stayed:
            show.note(f"{t.precision}: {len(t.report.stayed)} layers that would have lost too much stayed as they were")
    show.say(f"\nmedians of {a.rounds} rounds of {a.batch} images, everything in turn; moved: the largest change of a "
             f"logit on {images} images, of their range.\nEvaluate and predict take --optimize NAME, Python "
             "vitrail.optimize(model, images)")


def _arguments(p: ArgumentParser) -> None:
    add_model(p)
    p.add_argument("--images", required=True, metavar="FOLDER",
                   help="real images, to compare the answers on and to calibrate int8")
    p.add_argument("--most", type=whole(1, 4096), default=64, metavar="N", help="how many of them to take (64)")
    p.add_argument("--precision", type=one_of(PRECISIONS), nargs="+", default=list(PRECISIONS), metavar="NAME",
                   help="fp32, bf16, int8 (all)")
    add_batch(p, 8)
    p.add_argument("--rounds", type=whole(1, 10_000), default=20, metavar="N", help="how often each is timed (20)")
    add_threads(p)
    add_out(p, "FILE.json", "write everything there")


COMMANDS = {"optimize": Command(about="Rewrites a model for this processor and tells what is gained, on real images.",
                                run=_optimize, arguments=_arguments)}
