"""What needs no network is answered without torch: pages of help, and words that are wrong."""
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from vitrail.cli.main import COMMANDS, find

ROOT = Path(__file__).parents[2]
SUBCOMMANDS = [f"{name} {word}" for name in COMMANDS for word in find(name).subcommands]
EVERY = [*COMMANDS, *SUBCOMMANDS]
CHILD = """
import contextlib, io, json, sys
from vitrail.cli.main import main
answers = []
for words in json.load(sys.stdin):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stderr(err), contextlib.redirect_stdout(out):
        code = main(words)
    answers.append([code, out.getvalue(), err.getvalue(), sorted({"torch", "numpy", "rich", "PIL"} & set(sys.modules))])
print(json.dumps(answers))
"""


def answers(*lines: list[str]) -> list[tuple[int, str, str, list[str]]]:
    """Exit code, output, errors and heavy modules of each command, one after the other in one new process."""
    child = subprocess.run([sys.executable, "-c", CHILD], cwd=ROOT, input=json.dumps(lines), capture_output=True,
                           text=True)
    assert child.returncode == 0, child.stderr[-2000:]
    return [tuple(answer) for answer in json.loads(child.stdout)]


def test_the_help_of_every_command_imports_nothing_heavy() -> None:
    pages = answers(*([*name.split(), "--help"] for name in EVERY))
    for name, (code, out, err, heavy) in zip(EVERY, pages, strict=True):
        assert (code, err, heavy) == (0, "", []), name
        assert out.startswith(f"usage: vitrail {name}") and "--debug" in out and "--plugin FILE.py" in out


def test_a_wrong_option_of_every_command_is_refused_at_once() -> None:
    lines = [[*name.split(), "--no-such-thing", "1"] for name in EVERY]
    for name, (code, out, err, heavy) in zip(EVERY, answers(*lines), strict=True):
        assert (code, out, heavy) == (2, "", []), name
        assert "'no_such_thing'" in err and f"vitrail {name} --help" in err and err.startswith("error: ")


def test_the_help_of_train_follows_the_words_without_torch() -> None:
    lines = [["train", *words, "--help"] for words in ([], ["--model", "gpt_tiny"], ["--task", "language"],
                                                       ["model=bert_tiny"], ["--model", "vit_s16"])]
    pages = answers(*lines)
    assert all(code == 0 and not heavy for code, _, _, heavy in pages)
    assert [("--sentences" in out, "--randaugment" in out) for _, out, _, _ in pages] == [
        (False, True), (True, False), (True, False), (True, False), (False, True)]


@pytest.mark.parametrize(("words", "names"), [
    (["train", "--out", "r", "--change", "depth=1"], ("'change'", "--set")),
    (["train", "--model", "gpt_tiny", "--out", "r", "--held-out", "x"], ("'held_out'", "--val")),
    (["train", "--out", "r", "--fraction", "0.1"], ("'fraction'", "--val-fraction")),
    (["compare", "--out", "r", "--change", "patch=2"], ("'change'", "--set")),
    (["evaluate", "runs/a", "digits", "--part", "val"], ("'part'", "--split"))])
def test_an_old_name_is_answered_with_todays(words: list[str], names: tuple[str, str]) -> None:
    (code, out, err, heavy), = answers(words)
    assert (code, out, heavy) == (2, "", []) and all(name in err for name in names) and "0.2" in err


def test_no_environment_of_a_terminal_is_needed() -> None:
    bare = {name: value for name, value in os.environ.items() if name in ("PATH", "PYTHONPATH", "SYSTEMROOT")}
    child = subprocess.run([sys.executable, "-m", "vitrail", "train", "--help"], cwd=ROOT, env=bare,
                           capture_output=True)
    assert child.returncode == 0 and not child.stderr
