"""`vitrail export`: a model as a file that runs elsewhere, compared with it on real images before it is called done."""
from argparse import ArgumentParser, Namespace
from pathlib import Path

from vitrail.cli import show
from vitrail.cli.command import Command, add_model, add_threads
from vitrail.cli.opening import check_free, check_images, check_model, open_model, set_threads
from vitrail.core.errors import SettingsError, VitrailError, did_you_mean

FORMATS = (".onnx", ".pt2")
LARGEST = 1 << 14


def parse_size(words: list[str] | None) -> tuple[int, int] | str | None:
    """`224 320` -> (224, 320), height first; `224` -> (224, 224); `dynamic`; None: the model's own."""
    if not words:
        return None
    if words == ["dynamic"]:
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


def _export(a: Namespace) -> int:
    out, size, batch = Path(a.out).expanduser(), parse_size(a.size), parse_batch(a.batch)
    if out.suffix.lower() not in FORMATS:
        raise SettingsError(f"{a.out}: the file's ending says what it will be: .onnx, or .pt2 for a torch.export "
                            f"program.{did_you_mean(out.suffix.lower(), FORMATS)}")
    check_model(a.model, a.weights)
    check_images([a.images])
    check_free(str(out), overwrite=a.overwrite)
    model = open_model(a)
    set_threads(a)
    from vitrail.deploy.export import export
    from vitrail.report.exports import note_export

    verdict = export(model, out, images=Path(a.images).expanduser(), size=size, batch=batch, overwrite=a.overwrite)
    if a.json:
        show.emit(verdict.to_json())
    else:
        show.say(str(verdict))
    run = Path(a.model).expanduser()
    if (run / "run.json").is_file():
        try:
            note_export(run, verdict.to_json())
        except VitrailError as e:               # somebody else's run, say: the artefact is no worse for it
            show.note(f"the run's list of exports was not brought up to date: {e}")
    return 0


def _arguments(p: ArgumentParser) -> None:
    add_model(p)
    p.add_argument("out", metavar="OUT", help="FILE.onnx, or FILE.pt2 for a torch.export program")
    p.add_argument("--images", required=True, metavar="FOLDER", help="real images to compare the answers on")
    p.add_argument("--size", nargs="+", metavar="H W",
                   help="height and width in pixels, or dynamic; left out: the model's own")
    p.add_argument("--batch", default="dynamic", metavar="N", help="images at a time, or dynamic (dynamic)")
    add_threads(p)
    p.add_argument("--overwrite", action="store_true", help="replace what is there")


COMMANDS = {"export": Command(about="Writes a model as ONNX or as a torch.export program, checked on real images.",
                              run=_export, arguments=_arguments)}
