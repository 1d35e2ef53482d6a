"""Ranges stand in one place: what the code refuses, the command line refuses at once, by the setting's name."""
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest

from tests.cli.conftest import Ask
from vitrail.cli.flags import dashed, without_none
from vitrail.core.errors import SettingsError
from vitrail.core.leaves import Leaf, leaves
from vitrail.core.task import find_task, task_names

ROOT = Path(__file__).parents[2]
MODELS = {"classification": "vit_ti16", "language": "gpt_tiny"}
INFINITE = float("inf")
TIED = {"warmup", "min_lr", "accumulate", "lr_steps"}           # whose bounds hang on other settings too
# texts that name something, which is looked for where it is used
NAMES = {"task", "name", "set", "source", "val", "device", "mixer", "weights", "keys", "inside", "teacher", "out",
         "lr_factors", "freeze"}
CHILD = """
import contextlib, io, json, sys
from vitrail.cli.main import main
wrong = []
for words, name, path in json.load(sys.stdin):
    err = io.StringIO()
    with contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):
        code = main(words)
    said = err.getvalue()
    named = repr(path) in said or f"--{name}" in said or repr(name.replace("-", "_")) in said
    heavy = sorted({"torch", "numpy", "PIL"} & set(sys.modules))
    if code != 2 or not named or heavy:
        wrong.append((words, code, said, heavy))
print(json.dumps(wrong))
"""


def kind_of(task: str) -> Any:
    return find_task(task).settings_type


def outside(leaf: Leaf) -> Iterator[Any]:
    """Values that no range of this leaf holds, as far as its annotation and its limits say."""
    kind = without_none(leaf.kind)
    is_tuple = get_origin(kind) is tuple
    of_each = get_args(kind)[0] if is_tuple else kind
    if kind is bool or get_origin(kind) is Literal:
        yield "nonsense"
    if of_each not in (int, float):
        return
    yield "nonsense"
    step = 1 if of_each is int else 1e-6
    limits = leaf.limits
    numbers = [limits["low"] - step, limits["high"] * (1 + 1e-6) + step, limits["above"], limits["below"]]
    finite = [int(number) if of_each is int else number for number in numbers if abs(number) < INFINITE]
    yield from finite
    if of_each is float:
        yield from ("nan", "inf")
    else:
        yield 1.5


def values(leaf: Leaf, value: Any) -> list[str]:
    """A value as words, for every place of a pair."""
    kind = without_none(leaf.kind)
    return [str(value)] * (len(get_args(kind)) if get_origin(kind) is tuple and Ellipsis not in get_args(kind) else 1)


def cases(task: str) -> list[tuple[list[str], str, str]]:
    rows = []
    for leaf in leaves(kind_of(task)):
        name = dashed(leaf.name)
        for value in outside(leaf):
            given = [f"--{name}={value}"] if leaf.kind is bool else [f"--{name}", *values(leaf, value)]
            rows.append((["train", "--model", MODELS[task], "--out", "r", *given], name, leaf.path))
    return rows


def test_every_task_of_ours_is_tried() -> None:
    assert set(MODELS) <= set(task_names())


@pytest.mark.parametrize("task", MODELS)
def test_a_value_out_of_its_range_is_refused_by_name_before_torch_is_imported(task: str) -> None:
    rows = cases(task)
    assert len(rows) > 90 and len({path for _, _, path in rows}) > 30
    child = subprocess.run([sys.executable, "-c", CHILD], cwd=ROOT, input=json.dumps(rows), capture_output=True,
                           text=True)
    assert child.returncode == 0, child.stderr[-2000:]
    assert json.loads(child.stdout) == []


@pytest.mark.parametrize("task", MODELS)
def test_every_setting_has_a_range_or_names_something(task: str) -> None:
    for leaf in leaves(kind_of(task)):
        kind = without_none(leaf.kind)
        if kind is str or kind == tuple[str, ...]:
            assert leaf.path.rpartition(".")[2] in NAMES, leaf.path
        elif kind is not bool and get_origin(kind) is not Literal:
            least = max(leaf.limits.get("low", -INFINITE), leaf.limits.get("above", -INFINITE))
            assert least > -INFINITE, f"{leaf.path} takes any number"
            assert "nonsense" in outside(leaf), f"{leaf.path} is not tried"


@pytest.mark.parametrize("task", MODELS)
def test_the_bounds_themselves_are_in_the_range(task: str) -> None:
    kind = kind_of(task)
    tried = 0
    for leaf in leaves(kind):
        for bound in (leaf.limits.get("low", INFINITE), leaf.limits.get("high", INFINITE)):
            if abs(bound) == INFINITE or leaf.name in TIED:
                continue
            number = without_none(leaf.kind)
            value = (bound, bound) if get_origin(number) is tuple else int(bound) if number is int else bound
            try:
                settings = kind.of({"out": "r", "model": MODELS[task], leaf.path: value})
            except SettingsError as e:
                pytest.fail(f"{leaf.path} = {value!r}: {e}")
            assert settings.at(leaf.path) == value
            tried += 1
    assert tried > 25


@pytest.mark.parametrize(("words", "name"), [
    (["--randaugment", "15"], "randaugment"), (["--magnitude", "31"], "magnitude"),
    (["--crop-scale", "0.9", "0.1"], "scale"),
    (["--crop-ratio", "2", "1"], "ratio"), (["--min-lr", "1", "--lr", "0.1"], "min_lr"),
    (["--warmup", "9", "--epochs", "3"], "warmup"), (["--batch", "8", "--accumulate", "3"], "accumulate")])
def test_what_was_once_refused_too_late(ask: Ask, words: list[str], name: str) -> None:
    answer = ask("train", "--model", "vit_ti16", "--out", "r", *words)
    assert answer.code == 2 and name in answer.err and not Path("r").exists()
