"""`vitrail export`: a model as a file that runs elsewhere, compared with it on real images before it is called done."""
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitrail.cli.command import Command
from vitrail.cli.opening import check_free, check_inputs, check_model, open_model, set_threads
from vitrail.cli.options import FromModel, Overwrites, Threads
from vitrail.cli.output import log, print_json, print_line
from vitrail.core.errors import SettingsError, VitrailError, did_you_mean
from vitrail.core.settings import setting

FORMATS = (".onnx", ".pt2")
LARGEST = 1 << 14


@dataclass(frozen=True, kw_only=True)
class Settings(Overwrites, Threads, FromModel):
    """Which model, into what, for which inputs."""

    out: str = setting(positional=True, metavar="OUT", help="FILE.onnx, or FILE.pt2 for a torch.export program")
    images: str = setting(metavar="FOLDER", help="real inputs to compare the answers on: a folder of images, or what a "
                                              "model of text was trained on")
    size: tuple[str, ...] = setting((), metavar="H W", help="height and width in pixels, or dynamic; left out: the "
                                                            "model's own. Of a text: its tokens")
    batch: str = setting("dynamic", metavar="N", help="samples at a time, or dynamic")


def parse_size(words: Sequence[str]) -> tuple[int, int] | str | None:
    """`224 320` -> (224, 320), height first; `224` -> (224, 224); `dynamic`; nothing: the model's own."""
    if not words:
        return None
    if tuple(words) == ("dynamic",):
        return "dynamic"
    sides = [_whole(w, "--size") for w in words]
    if len(sides) > 2:
        raise SettingsError(f"--size takes a height and a width, or 'dynamic', and not {' '.join(words)!r}; "
                            "write it after the model and the file")
    return sides[0], sides[-1]


def parse_batch(word: str) -> int | str:
    """`8` -> 8; `dynamic`."""
    return word if word == "dynamic" else _whole(word, "--batch")


def _whole(word: str, option: str) -> int:
    if not word.isascii() or not word.isdigit() or not 1 <= int(word[:9]) <= LARGEST:
        raise SettingsError(f"{option} is {word!r}, and must be whole numbers from 1 to {LARGEST}, or 'dynamic'."
                            f"{did_you_mean(word, ['dynamic'])}")
    return int(word)


def run(a: Settings, *, json: bool) -> int:
    out = Path(a.out).expanduser()
    size: Any = parse_size(a.size)
    batch = parse_batch(a.batch)
    if out.suffix.lower() not in FORMATS:
        raise SettingsError(f"{a.out}: the file's ending says what it will be: .onnx, or .pt2 for a torch.export "
                            f"program.{did_you_mean(out.suffix.lower(), FORMATS)}")
    check_model(a.model, a.weights)
    check_free(str(out), overwrite=a.overwrite)
    inputs = check_inputs(a, a.images)
    model = open_model(a)
    set_threads(a)
    from vitrail.deploy.export import export
    from vitrail.deploy.inputs import ModelInputs
    from vitrail.report.exports import note_export

    if isinstance(ModelInputs(model.config).size, int) and isinstance(size, tuple):
        size = size[0]                              # a text has a length alone
    verdict = export(model, out, images=inputs, size=size, batch=batch, overwrite=a.overwrite)
    if json:
        print_json(verdict.to_json())
    else:
        print_line(str(verdict))
    folder = Path(a.model).expanduser()
    if (folder / "run.json").is_file():
        try:
            note_export(folder, verdict.to_json())
        except VitrailError as e:               # somebody else's run, say: the artefact is no worse for it
            log(f"the run's list of exports was not brought up to date: {e}")
    return 0


COMMAND = Command(about="Writes a model as ONNX or as a torch.export program, checked on real images.",
                  settings=Settings, run=run)
