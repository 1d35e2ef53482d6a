"""`vitrail COMMAND ...`: finds the command, runs it, and turns every failure into a line and an exit code.

0: done. 1: it failed. 2: it was asked wrongly. 70: a mistake of vitrail's own. 130, 143: stopped by Ctrl-C, SIGTERM.
"""
import contextlib
import importlib
import io
import os
import sys
from collections.abc import Sequence

import vitrail
from vitrail.cli.command import Command
from vitrail.core.errors import SettingsError, VitrailError, did_you_mean

# each in the module of this package of that name
COMMANDS = {
    "list": "models, mechanisms of attention and position codes, with what they cost",
    "show": "one of them: paper, figures, arguments, released weights",
    "tree": "the papers that a model builds on, and those that build on it, as text or picture",
    "diff": "what differs between two models",
    "data": "check a data set: classes, sizes, broken files, a sheet of samples",
    "train": "train a classifier on your images, or a model of text on your texts",
    "compare": "train several attention mechanisms in one model under one budget",
    "evaluate": "score a model on labelled images, each number with its interval",
    "predict": "answer for images that nobody labelled",
    "explain": "show what in an image an answer rests on",
    "generate": "ask a model of text: translate, go on, or fill gaps",
    "export": "write a model as ONNX or as a torch.export program, checked on real images",
    "optimize": "rewrite a model for this processor: what is gained, what its answers lose",
    "bench": "time forward passes beside other engines, or what attention costs",
    "survey": "what every model costs on this machine, beside its reported accuracy",
    "claims": "claims of the field, run again here",
    "doctor": "what of vitrail works on this machine, and what would unlock the rest",
}
BROKEN_PIPE = 141       # 128 + SIGPIPE, as a shell reports it
BUG = 70                # EX_SOFTWARE


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; its exit code. No exception leaves it."""
    words = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")       # a name that this terminal cannot spell is no failure
    debug = "--debug" in words
    try:
        try:
            code = _run(words)
        except SystemExit as e:                                 # of a plugin's own
            code = e.code if isinstance(e.code, int) else 0
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        _mute()
        return BROKEN_PIPE
    except KeyboardInterrupt:
        return _fail("interrupted", 130, debug)
    except VitrailError as e:
        return _fail(str(e), e.exit_code, debug)
    except OSError as e:
        where = os.fsdecode(e.filename) if isinstance(e.filename, (str, bytes)) else "input or output failed"
        return _fail(f"{where}: {e.strerror or e}", 1, debug)
    except MemoryError:
        return _fail("not enough memory: try a smaller --batch, or a smaller model", 1, debug)
    except Exception as e:
        if type(e).__name__ == "OutOfMemoryError":              # torch's, which is not imported here
            return _fail(f"the device has not enough memory: try a smaller --batch ({_first_line(e)})", 1, debug)
        return _fail(f"this is a mistake in vitrail, not yours: {type(e).__name__}: {_first_line(e)}\n"
                     "Run the command again with --debug and report what it prints.", BUG, debug)


def _run(words: list[str]) -> int:
    words = _load_plugins(words)
    while words and words[0] in ("--debug", "--json"):          # either side of the command will do
        words = [*words[1:], words[0]]
    if not words or words[0] in ("-h", "--help", "help"):
        if len(words) > 1 and words[0] == "help" and not words[1].startswith("-"):
            return _run([words[1], "--help"])
        print(usage())
        return 0
    if words[0] in ("-V", "--version"):
        print(f"vitrail {vitrail.__version__}")
        return 0
    name, rest = words[0], words[1:]
    command = find(name)
    if rest and rest[0] in command.subcommands:
        name, command, rest = f"{name} {rest[0]}", _command_of(command.subcommands[rest[0]]), rest[1:]
    from vitrail.cli import help, parse
    kind = command.settings_of(rest)
    if parse.wants_help(kind, rest):
        page = help.page(kind, command=name, about=command.about)
        print("\n\n".join(filter(None, (page, command.more))))
        return 0
    settings, common = parse.read(kind, rest, command=name)
    return command.run(settings, json=common.json)


def _load_plugins(words: list[str]) -> list[str]:
    """Imports what `--plugin` names, and returns the other words."""
    rest: list[str] = []
    waiting = iter(words)
    for word in waiting:
        if word == "--":
            return [*rest, word, *waiting]
        flag, equals, name = word.partition("=")
        if flag != "--plugin":
            rest.append(word)
            continue
        name = name if equals else next(waiting, "")
        if not name or name.startswith("--"):
            raise SettingsError("--plugin needs a value: --plugin FILE.py, or a module's name")
        from vitrail.core import plugins
        plugins.load(name)
    return rest


def find(name: str) -> Command:
    """A command by name. Raises SettingsError, naming the nearest, where there is none."""
    if name not in COMMANDS:
        kind = "option" if name.startswith("-") else "command"
        choices = ("--help", "--version") if kind == "option" else tuple(COMMANDS)
        raise SettingsError(f"there is no {kind} {name!r}.{did_you_mean(name, choices)} `vitrail --help` lists them")
    return _command_of(name)


def _command_of(module: str) -> Command:
    command: Command = importlib.import_module(f"vitrail.cli.{module}").COMMAND
    return command


def usage() -> str:
    """The page of `vitrail --help`."""
    width = max(map(len, COMMANDS))
    lines = "\n".join(f"  {name.ljust(width)}  {about}" for name, about in COMMANDS.items())
    return (f"usage: vitrail COMMAND ...\n\n{(vitrail.__doc__ or '').splitlines()[0]}\n\ncommands:\n{lines}\n\n"
            "options:\n  -h, --help     this page; after a command: the command's\n  -V, --version  the version\n"
            "  --json         after a command: one JSON value for a program to read\n"
            "  --plugin FILE  import this file, or a module by name, first\n"
            "  --debug        the traceback of an error\n\n"
            "the main job:\n  vitrail data check PHOTOS\n"
            "  vitrail train --model deit_ti16 --data PHOTOS --out runs/first\n"
            "  vitrail evaluate runs/first --held-out-of-run\n  vitrail explain runs/first PHOTO.jpg --out maps\n"
            "  vitrail export runs/first model.onnx --images PHOTOS")


def _fail(message: str, code: int, debug: bool) -> int:
    rank = os.environ.get("RANK", "0")
    who = "error" if rank == "0" else f"error (process {rank})"
    try:
        if debug:
            import traceback
            traceback.print_exc()
        print(f"{who}: {message}", file=sys.stderr, flush=True)
    except OSError:                                             # nobody listens any more
        pass
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        _mute()
    return code


def _first_line(e: BaseException) -> str:
    return (str(e).splitlines() or [""])[0][:300]


def _mute() -> None:
    """What is still to be printed goes nowhere: the other end of the pipe has gone, or its disk is full."""
    with contextlib.suppress(OSError, ValueError):              # a stream that is no file: nothing to silence
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
