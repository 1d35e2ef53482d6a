"""`vitrail evaluate, predict, explain`: what a trained model does with images."""
import csv
import itertools
import json
import re
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitrail.cli import show
from vitrail.cli.command import (Command, add_batch, add_model, add_on_error, add_optimize, add_out, add_place, one_of,
                                 whole)
from vitrail.cli.held import held_out, trained_on
from vitrail.cli.opening import check_free, check_images, check_model, open_model, optimised, place
from vitrail.core.errors import DataError, SettingsError

if TYPE_CHECKING:
    from vitrail.data.source import Source
    from vitrail.tasks.classification.evaluate import Evaluation
    from vitrail.tasks.classification.predict import Prediction

SCORES = {"top1": "top-1 accuracy", "top5": "top-5 accuracy", "balanced": "balanced accuracy",
          "f1": "F1, mean of classes", "ece": "calibration error", "brier": "Brier score",
          "nll": "negative log-likelihood"}
SHARES = ("top1", "top5", "balanced", "f1", "ece")


def _evaluate(a: Namespace) -> int:
    check_model(a.model, a.weights)
    if bool(a.data) == a.held_out_of_run:
        raise SettingsError("evaluate takes either DATA, or --held-out-of-run for the images that a run held out")
    if a.data and a.data != "digits" and not a.data.startswith(("hf:", "wds:")):
        check_images([a.data])
    for target in (a.out, a.html):
        check_free(target, overwrite=a.overwrite)
    model, device = open_model(a), place(a)
    from vitrail.core.files import write_file
    from vitrail.data.open import open_source
    from vitrail.tasks.classification.evaluate import evaluate

    run = Path(a.model).expanduser()
    source: Source = held_out(run) if a.held_out_of_run else open_source(
        a.data, on_error=a.on_error, classes=model.config.spec.labels, part=a.part or None)
    if not a.held_out_of_run and (seen := trained_on(run, source)):
        show.note(f"the run learned from {seen:,} of these {len(source):,} images, which flatters it: "
                  "--held-out-of-run takes those that it did not")
    found = evaluate(optimised(model, a, device), source, batch=a.batch, workers=a.workers, device=device,
                     on_error=a.on_error)
    if a.out:
        write_file(a.out, json.dumps(show.plain(found.to_json()), indent=1) + "\n", overwrite=a.overwrite)
    if a.html:
        from vitrail.report.build import write_report
        write_report(run, model.cpu(), found, source, path=Path(a.html).expanduser())
    if a.json:
        show.emit({k: v for k, v in found.to_json().items() if k != "predictions"})
    else:
        _scores(found)
    for path in filter(None, (a.out, a.html)):
        show.note(f"wrote {path}")
    return 0


def _scores(found: "Evaluation") -> None:
    show.say(f"{found.model} on {found.source}: {found.samples:,} images of {len(found.labels)} classes")
    rows = []
    for name, score in found.scores.items():
        scale, unit, digits = (100, " %", 2) if name in SHARES else (1, "", 4)
        value, low, high = (f"{scale * v:.{digits}f}" for v in (score.value, score.low, score.high))
        rows.append((SCORES.get(name, name), f"{value}{unit}", f"{low} to {high}"))
    show.table(("score", "value", "95 % interval"), rows, right=("value",))
    for out in found.excluded[:20]:
        show.note(f"left out: {out.key}: {out.why}")
    if len(found.excluded) > 20:
        show.note(f"... and {len(found.excluded) - 20} more left out; --out FILE.json lists them all")


def _predict(a: Namespace) -> int:
    check_model(a.model, a.weights)
    if a.json and a.csv:
        raise SettingsError("predict prints --json or --csv, not both")
    if a.on_error == "stop":
        check_images(a.images)
    model, device = open_model(a), place(a)
    from vitrail.data.source import SKIP_HINT
    from vitrail.tasks.classification.predict import predict

    try:
        found = predict(optimised(model, a, device), [Path(p).expanduser() for p in a.images], batch=a.batch,
                        device=device, top=a.top, on_error=a.on_error)
    except DataError as e:
        raise DataError(f"{e}{SKIP_HINT}") from e
    _answers(found, a, model.config.model)
    wrong = [p for p in found if p.error is not None]
    for p in wrong:
        show.note(f"left out: {p.error}")
    return 1 if wrong and len(wrong) == len(found) else 0


def _answers(found: "list[Prediction]", a: Namespace, model: str) -> None:
    if a.json:
        show.emit({"model": model, "predictions": [
            {"file": p.key, "label": p.label, "probability": p.score, "error": p.error,
             "top": [{"label": label, "probability": share} for label, share in p.top]} for p in found]})
        return
    most = max((1, *(len(p.top) for p in found)))
    if a.csv:
        out = csv.writer(sys.stdout, lineterminator="\n")
        more = [f"{word}_{n}" for n in range(2, most + 1) for word in ("label", "probability")]
        out.writerow(["file", "label", "probability", *more, "error"])
        for p in found:
            cells = [x for label, share in p.top for x in (label, f"{share:.6f}")]
            out.writerow([p.key, *cells, *[""] * (2 * most - len(cells)), p.error or ""])
        return
    rows = [(p.key, *(x for label, share in p.top for x in (label, f"{100 * share:.1f}"))) for p in found if p.top]
    if rows:
        show.table(("file", *(x for _ in range(most) for x in ("answer", "%"))), rows, right=("%",))


def _explain(a: Namespace) -> int:
    check_model(a.model, a.weights)
    check_images(a.images)
    if a.layer and a.method not in ("attention", "gradcam") or a.head is not None and a.method != "attention":
        raise SettingsError(f"{a.method} goes through all layers and heads: --layer is for attention and gradcam, "
                            "--head for attention")
    pictures = _named(a.images, a.method)
    wanted = [(image, Path(a.out).expanduser() / name) for name, image in pictures.items()]
    for _, path in wanted:
        for suffix in (".png", ".npy") if a.arrays else (".png",):
            check_free(str(path.with_name(path.name + suffix)), overwrite=a.overwrite)
    model = open_model(a).to(place(a))
    from vitrail.data.source import SKIP_HINT
    from vitrail.explanation.api import explain

    target = a.target or None
    if a.target not in (None, *model.config.spec.labels) and re.fullmatch(r"-?\d+", a.target or ""):
        target = int(a.target)
    layer = int(a.layer) if re.fullmatch(r"-?\d+", a.layer) else a.layer or None
    rows: list[dict[str, Any]] = []
    for image, path in wanted:
        try:
            found = explain(model, image, method=a.method, target=target, layer=layer, head=a.head)
        except DataError as e:
            if a.on_error == "stop":
                raise DataError(f"{e}{SKIP_HINT}") from e
            show.note(f"left out: {e}")
            continue
        saved = [found.save(path.with_name(path.name + s), overwrite=a.overwrite)
                 for s in ((".png", ".npy") if a.arrays else (".png",))]
        rows.append({"file": image, "method": found.method, "label": found.label, "probability": found.score,
                     "overlay": saved[0], **({"array": saved[1]} if a.arrays else {})})
    if a.json:
        show.emit(rows)
    elif rows:
        show.table(("file", "explained", "%", "overlay"),
                   [(r["file"], r["label"], f"{100 * r['probability']:.1f}", r["overlay"]) for r in rows], right=("%",))
    return 0 if rows else 1


def _named(images: list[str], method: str) -> dict[str, Path]:
    """Each image, those of folders included, by a name of its own: photo-relevance, photo-2-relevance."""
    from vitrail.data.walk import walk

    found: dict[str, Path] = {}
    for given in (Path(text).expanduser() for text in images):
        inside = sorted(given / file for file in walk(given).images) if given.is_dir() else [given]
        if not inside:
            raise DataError(f"the folder {given} holds no image")
        for image in inside:
            names = (f"{image.stem}{'' if n == 1 else f'-{n}'}-{method}" for n in itertools.count(1))
            found[next(name for name in names if name not in found)] = image
    return found


def _evaluate_arguments(p: ArgumentParser) -> None:
    add_model(p)
    p.add_argument("data", metavar="DATA", nargs="?", default="",
                   help="digits, a folder of class folders, a .csv, hf:..., wds:...")
    p.add_argument("--held-out-of-run", action="store_true",
                   help="the images that the run held out, once they are known to be the same")
    p.add_argument("--part", default="", metavar="train|val|test", help="that part of data that are divided")
    add_batch(p, 64)
    add_optimize(p)
    add_place(p)
    p.add_argument("--workers", type=whole(0, 1024), default=0, metavar="N", help="processes that read images (0)")
    add_on_error(p)
    add_out(p, "FILE.json", "write everything there: scores, confusion, each image's answer")
    p.add_argument("--html", default="", metavar="FILE.html", help="write the report, a page of its own")


def _predict_arguments(p: ArgumentParser) -> None:
    add_model(p)
    p.add_argument("images", metavar="FILE", nargs="+", help="images, or folders of them")
    p.add_argument("--csv", action="store_true", help="one line of comma-separated values an image")
    p.add_argument("--top", type=whole(1), default=1, metavar="K", help="how many answers an image (1)")
    add_batch(p, 32)
    add_optimize(p)
    add_place(p)
    add_on_error(p)


def _explain_arguments(p: ArgumentParser) -> None:
    add_model(p)
    p.add_argument("images", metavar="IMAGE", nargs="+", help="images, or folders of them")
    p.add_argument("--method", type=one_of(("relevance", "rollout", "attention", "gradcam")), default="relevance",
                   metavar="NAME", help="relevance, rollout, attention, gradcam (relevance)")
    p.add_argument("--target", default="", metavar="CLASS", help="a class by name or number; left out: the answer")
    p.add_argument("--layer", default="", help="of attention: its number from 0 (-1: the last), or its name; of "
                                               "gradcam: its name")
    p.add_argument("--head", type=whole(0), metavar="N", help="of attention: one head; left out: the mean of all")
    p.add_argument("--arrays", action="store_true", help="write each map as .npy too, a value a token")
    add_place(p)
    add_on_error(p)
    add_out(p, "FOLDER", "where the overlays go, a PNG an image", required=True)


COMMANDS = {
    "evaluate": Command(about="Scores a model on labelled images, each number with its 95 % interval.", run=_evaluate,
                        arguments=_evaluate_arguments),
    "predict": Command(about="Answers for images that nobody labelled.", run=_predict, arguments=_predict_arguments),
    "explain": Command(about="Shows what in an image an answer rests on, as overlays.", run=_explain,
                       arguments=_explain_arguments),
}
