"""`vitrail explain`: what in an input an answer rests on, as overlays."""
import itertools
import re
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from vitrail.cli import show
from vitrail.cli.command import Command, add_model, add_on_error, add_out, add_place, one_of, whole
from vitrail.cli.opening import check_free, check_images, check_model, open_model, place
from vitrail.core.errors import DataError, SettingsError
from vitrail.core.task import task_of


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
    from vitrail.data.dataset import SKIP_HINT
    from vitrail.explanation.api import explain

    task_of(model.config).require("score")
    target = a.target or None
    layer = int(a.layer) if re.fullmatch(r"-?\d+", a.layer) else a.layer or None
    rows: list[dict[str, Any]] = []
    for image, path in wanted:
        try:
            explanation = explain(model, image, method=a.method, target=target, layer=layer, head=a.head)
        except DataError as e:
            if a.on_error == "stop":
                raise DataError(f"{e}{SKIP_HINT}") from e
            show.note(f"left out: {e}")
            continue
        saved = [explanation.save(path.with_name(path.name + s), overwrite=a.overwrite)
                 for s in ((".png", ".npy") if a.arrays else (".png",))]
        rows.append({"file": image, "method": explanation.method, "label": explanation.label, "probability": explanation.score,
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

    named: dict[str, Path] = {}
    for given in (Path(text).expanduser() for text in images):
        inside = sorted(given / file for file in walk(given).images) if given.is_dir() else [given]
        if not inside:
            raise DataError(f"the folder {given} holds no image")
        for image in inside:
            names = (f"{image.stem}{'' if n == 1 else f'-{n}'}-{method}" for n in itertools.count(1))
            named[next(name for name in names if name not in named)] = image
    return named


def _arguments(p: ArgumentParser) -> None:
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


COMMANDS = {"explain": Command(about="Shows what in an image an answer rests on, as overlays.", run=_explain,
                               arguments=_arguments)}
