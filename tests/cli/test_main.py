"""Dispatch, exit codes, and that no failure of a user's shows a traceback."""
import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import vitrail
from tests.cli.conftest import Ask
from vitrail.cli import main as module
from vitrail.cli import output
from vitrail.cli.command import Command
from vitrail.cli.options import NoOptions
from vitrail.cli.main import BROKEN_PIPE, BUG, COMMANDS, find, main
from vitrail.core.errors import CheckpointError, DataError, SettingsError, VitrailError

ROOT = Path(__file__).parents[2]


def vitrail_process(*words: str, **more: object) -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run([sys.executable, "-m", "vitrail", *words], cwd=ROOT, capture_output=True, **more)  # type: ignore


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["help"]])
def test_help_names_every_command(ask: Ask, words: list[str]) -> None:
    found = ask(*words)
    assert found.code == 0 and not found.err
    assert all(f"  {name} " in found.out and about in found.out for name, about in COMMANDS.items())


@pytest.mark.parametrize("words", [["--version"], ["-V"]])
def test_version(ask: Ask, words: list[str]) -> None:
    assert ask(*words).out == f"vitrail {vitrail.__version__}\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_page(ask: Ask, name: str) -> None:
    for words in ((name, "--help"), ("help", name)):
        found = ask(*words)
        assert found.code == 0 and f"vitrail {name}" in found.out
    assert "--json" in found.out and "--debug" in found.out and find(name).about


@pytest.mark.parametrize(("typed", "meant"), [
    ("lst", "list"), ("shwo", "show"), ("trian", "train"), ("evalute", "evaluate"), ("perdict", "predict"),
    ("explian", "explain"), ("exprot", "export"), ("benhc", "bench"), ("docter", "doctor"), ("tre", "tree"),
    ("dif", "diff"), ("dta", "data"), ("--hlep", "--help"), ("--versoin", "--version")])
def test_an_unknown_command_is_met_with_the_nearest(ask: Ask, typed: str, meant: str) -> None:
    found = ask(typed)
    assert found.code == 2 and not found.out
    assert repr(meant) in found.err and repr(typed) in found.err and found.err.startswith("error: ")


@pytest.mark.parametrize(("words", "said"), [
    ("list --tsk x", "'task'"), ("list --task clasification", "'classification'"),
    ("list --kind backbon", "'backbone'"),
    ("list a b", "'b' is one more"), ("list swim_t", "'swin_t'"), ("show", "NAME"), ("show swin_tt", "'swin_t'"),
    ("show vit_s61", "'vit_s16'"), ("tree resnet5O", "'resnet50'"), ("diff swin_t", "B"),
    ("diff swin_t swin_ss", "'swin_s'"),
    ("data chek x", "'check'"), ("data check", "PATH"), ("evaluate vit_s16 digits", "--weights"),
    ("evaluate nowhere digits", "'nowhere'"), ("evaluate", "MODEL"), ("predict vit_s16", "FILE"),
    ("predict vit_ti61 x.png", "'vit_ti16'"), ("explain vit_s16 x.png --out f --method rollot", "'rollout'"),
    ("explain vit_s16 x.png", "--out"), ("bench --models vit_s61", "'vit_s16'"), ("bench --models ,", "names no model"),
    ("bench --batch 0", "at least 1 and at most 4096"), ("bench --batch one", "whole number"),
    ("bench --against tim", "'timm'"),
    ("bench --against timm --size 64", "one size"), ("train --modle x", "'model'"),
    ("train --out r --model vit_s61", "'vit_s16'"),
    ("train --out r stray", "'stray'"), ("train --lr 1", "'training.out' is needed: --out"),
    ("export vit_s16 x.onnx", "--images"),
    ("doctor now", "'now' is one more"), ("doctor --jsn", "'json'")])
def test_what_is_asked_wrongly_is_answered_at_once_with_what_is_right(ask: Ask, words: str, said: str) -> None:
    found = ask(*words.split())
    assert found.code == 2 and not found.out
    assert said in found.err and found.err.startswith("error: ")
    assert len(found.err.splitlines()) <= 2


def test_help_lists_and_wrong_words_import_neither_torch_nor_rich() -> None:
    lines = ["--help", "list", "list swin* --json", "tree deit_s16", "lsit", "show swin_tt", "diff swin_t swin_q",
             "train --help", "train --lrr 1", "train --out r --lr nought", "train --out r --model vit_s61",
             "explain --help", "evaluate nowhere digits", "predict vit_s16 x.png", "export vit_s61 o.onnx --images f",
             "bench --models x", "data --help", "data chek x", "doctor --help"]
    code = ("import sys\nfrom vitrail.cli.main import main\nfor line in sys.argv[1:]:\n    main(line.split())\n"
            "    heavy = {'torch', 'numpy', 'rich', 'PIL'} & set(sys.modules)\n    assert not heavy, (line, heavy)\n")
    done = subprocess.run([sys.executable, "-c", code, *lines], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_closed_pipe_ends_the_command_in_silence() -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, "-m", "vitrail", "list"], cwd=ROOT, stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    assert done.returncode == BROKEN_PIPE and not done.stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_a_full_disk_under_the_output_is_one_line() -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run([sys.executable, "-m", "vitrail", "list"], cwd=ROOT, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 1
    assert done.stderr.decode().splitlines() == [f"error: input or output failed: {os.strerror(errno.ENOSPC)}"]


def test_a_terminal_that_knows_only_ascii_is_no_failure() -> None:
    done = vitrail_process("tree", "deit_s16", env={**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"})
    assert done.returncode == 0 and b"\\u2514" in done.stdout


def test_python_dash_m_gives_the_exit_code() -> None:
    assert vitrail_process("lst").returncode == 2


@pytest.mark.parametrize(("error", "code", "said"), [
    (VitrailError("a"), 1, "error: a"), (SettingsError("b"), 2, "error: b"), (DataError("c"), 1, "error: c"),
    (KeyboardInterrupt(), 130, "error: interrupted"), (MemoryError(), 1, "--batch"),
    (FileNotFoundError(errno.ENOENT, "No such file", "x.png"), 1, "error: x.png: No such file"),
    (PermissionError(errno.EACCES, "Permission denied", b"y"), 1, "error: y: Permission denied"),
    (IsADirectoryError(errno.EISDIR, "Is a directory", "z"), 1, "error: z: Is a directory"),
    (OSError(errno.ENOSPC, "No space left"), 1, "No space left"),
    (type("OutOfMemoryError", (RuntimeError,), {})("9 GiB\nmore"), 1, "(9 GiB)"),
    (ValueError("odd\nlines"), BUG, "ValueError: odd\n"), (RecursionError(), BUG, "RecursionError")])
def test_every_failure_has_its_line_and_its_code(ask: Ask, monkeypatch: pytest.MonkeyPatch, error: BaseException,
                                                 code: int,
                                                 said: str) -> None:
    def fail(settings: object, /, *, json: bool) -> int:
        raise error
    monkeypatch.setattr(module, "find", lambda name: Command(about="", settings=NoOptions, run=fail))
    found = ask("list")
    assert found.code == code and said in found.err
    assert code != BUG or "--debug" in found.err


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["show", "x", "--debug"], ["--debug", "show", "x"]):
        assert main(words) == 2
        said = capsys.readouterr().err
        assert "Traceback" in said and said.rstrip().splitlines()[-1].startswith("error: ")


def test_another_process_of_torchrun_says_which_it_is(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "3")
    assert ask("show", "x").err.startswith("error (process 3): ")


def test_exit_codes_of_the_errors_are_the_ones_of_the_house() -> None:
    assert (VitrailError.exit_code, SettingsError.exit_code, CheckpointError.exit_code) == (1, 2, 1)


@pytest.mark.parametrize("width", [60, 90, 400])
def test_a_terminal_gets_whole_columns(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
                                       width: int) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    output.table(("name", "size", "paper"), [("[red]a", 224, "p" * 300), ("b", 7, "q")], right=("size",))
    lines = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).splitlines()
    assert [line.split()[:2] for line in lines[:3]] == [["name", "size"], ["[red]a", "224"], ["b", "7"]]
    assert len(lines) == 3 and max(map(len, lines)) <= width
    assert ("p" * 300 in lines[1]) == (width == 400)
