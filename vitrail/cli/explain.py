"""`vitrail explain`: what in an input an answer rests on."""
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vitrail.cli.command import Command
from vitrail.cli.opening import check_files, check_free, check_model, model_task, open_model, place
from vitrail.cli.options import FromModel, OnDevice, Overwrites, SkipsErrors
from vitrail.cli.output import log, print_json, table
from vitrail.core.errors import DataError, SettingsError
from vitrail.core.settings import setting


@dataclass(frozen=True, kw_only=True)
class Settings(Overwrites, SkipsErrors, OnDevice, FromModel):
    """Which inputs, explained how."""

    inputs: tuple[str, ...] = setting(positional=True, metavar="INPUT", help="images, or folders of them; of a "
                                                                             "model of text: texts")
    method: Literal["relevance", "rollout", "attention", "gradcam"] = setting("relevance", help="how it is found out")
    target: str = setting("", metavar="NAME", help="what is explained, by name or number, such as a class; left out: "
                                                   "the answer")
    layer: str = setting("", help="of attention: its number from 0 (-1: the last), or its name; of gradcam: its name")
    head: int | None = setting(None, low=0, high=1 << 30, help="of attention: one head; left out: the mean of all")
    arrays: bool = setting(False, help="write the numbers of each explanation too, as .npy or .json")
    out: str = setting(metavar="FOLDER", help="where the pictures go, a PNG an input")


def run(a: Settings, *, json: bool) -> int:
    check_model(a.model, a.weights)
    if a.layer and a.method not in ("attention", "gradcam") or a.head is not None and a.method != "attention":
        raise SettingsError(f"{a.method} goes through all layers and heads: --layer is for attention and gradcam, "
                            "--head for attention")
    task = model_task(a)
    task.require("explain")
    if task.takes == "files":
        check_files(a.inputs)
        named: dict[str, Any] = _named_files(a.inputs, a.method)
    else:
        named = {f"text-{number}-{a.method}": text for number, text in enumerate(a.inputs, 1)}
    folder = Path(a.out).expanduser()
    for name in named:
        for suffix in (".png", ".npy", ".json") if a.arrays else (".png",):
            check_free(str(folder / (name + suffix)), overwrite=a.overwrite)
    model = open_model(a).to(place(a))
    from vitrail.data.dataset import SKIP_HINT
    from vitrail.explanation.api import explain

    options: dict[str, Any] = {"method": a.method, "target": a.target or None}
    if a.layer:
        options["layer"] = int(a.layer) if re.fullmatch(r"-?\d+", a.layer) else a.layer
    if a.head is not None:
        options["head"] = a.head
    rows: list[dict[str, Any]] = []
    for name, subject in named.items():
        try:
            explanation = explain(model, subject, **options)
        except DataError as e:
            if a.on_error == "stop":
                raise DataError(f"{e}{SKIP_HINT}") from e
            log(f"left out: {e}")
            continue
        suffixes = (".png", explanation.ARRAYS) if a.arrays else (".png",)
        saved = [explanation.save(folder / (name + suffix), overwrite=a.overwrite) for suffix in suffixes]
        rows.append({"input": subject, **explanation.summary(), "overlay": saved[0],
                     **({"array": saved[1]} if a.arrays else {})})
    if json:
        print_json(rows)
    elif rows:
        table(("input", "explained", "%", "overlay"),
              [(r["input"], r["label"], f"{100 * r['probability']:.1f}", r["overlay"]) for r in rows], right=("%",))
    return 0 if rows else 1


def _named_files(texts: Sequence[str], method: str) -> dict[str, Any]:
    """Each image, those of folders included, by a name of its own: photo-relevance, photo-2-relevance."""
    from vitrail.data.walk import walk

    named: dict[str, Any] = {}
    for path in (Path(text).expanduser() for text in texts):
        inside = sorted(path / file for file in walk(path).images) if path.is_dir() else [path]
        if not inside:
            raise DataError(f"the folder {path} holds no image")
        for image in inside:
            names = (f"{image.stem}{'' if n == 1 else f'-{n}'}-{method}" for n in itertools.count(1))
            named[next(name for name in names if name not in named)] = image
    return named


COMMAND = Command(about="Shows what in an input an answer rests on, as pictures.", settings=Settings, run=run)
