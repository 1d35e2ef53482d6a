"""Settings check themselves, travel through TOML, and name what is wrong."""
import math
import subprocess
import sys
import tomllib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import settings as tries
from hypothesis import strategies as st

from vitrail.core.errors import SettingsError
from vitrail.core import toml
from vitrail.core.settings import Checked, setting
from vitrail.training.settings import TrainSettings

NAMES = [f.name for f in fields(TrainSettings)]


@dataclass(frozen=True, kw_only=True)
class Recipe(TrainSettings):
    """As a recipe extends them."""

    data: str = field(metadata={"free": True})
    sides: tuple[int, ...] = (32, 64)
    teacher: str | None = None
    mode: Literal["soft", "hard"] = "soft"
    share: float = setting(0.5, above=0, below=1)


@pytest.mark.parametrize(("changes", "words"), [
    ({"lr": -1.0}, ["'lr'", "-1.0", "more than 0", "at most 100"]), ({"lr": 0}, ["more than 0"]),
    ({"lr": math.nan}, ["nan"]), ({"lr": math.inf}, ["inf"]), ({"lr": 10**400}, ["'lr'"]),
    ({"lr": "1e-3"}, ["'1e-3'", "a number"]), ({"lr": True}, ["True", "a number"]),
    ({"epochs": 0}, ["'epochs'", "at least 1"]), ({"epochs": 2.0}, ["a whole number"]),
    ({"epochs": True}, ["a whole number"]), ({"batch": -8}, ["'batch'", "at least 1"]),
    ({"batch": 10, "accumulate": 3}, ["'accumulate'", "3", "divide batch, 10"]),
    ({"betas": (0.9, 1.0)}, ["'betas'", "less than 1"]), ({"betas": (0.9,)}, ["'betas'", "2 values"]),
    ({"betas": 0.9}, ["2 values, each a number"]), ({"ema": 1.0}, ["'ema'", "less than 1"]),
    ({"clip": -0.1}, ["'clip'"]), ({"clip": math.inf}, ["'clip'"]),
    ({"precision": "fp16"}, ["'precision'", "'fp32', 'bf16'"]), ({"precision": "bf61"}, ["Did you mean 'bf16'?"]),
    ({"strategy": "dpd"}, ["Did you mean 'ddp'"]), ({"compile": 1}, ["true or false"]),
    ({"keep": 0}, ["'keep'", "at least 1"]), ({"warmup": 101.0}, ["'warmup'", "at most epochs, 100"]),
    ({"min_lr": 1.0}, ["'min_lr'", "at most lr, 0.001"]), ({"seed": -1}, ["'seed'"]), ({"seed": 2**63}, ["'seed'"]),
    ({"out": "  "}, ["'out'"]), ({"out": "a\0"}, ["'out'"]), ({"out": 3}, ["a text"]),
    ({"layer_decay": 0.0}, ["'layer_decay'"]), ({"resume": None}, ["'auto', 'never', 'must'"]),
    ({"threads": -1}, ["'threads'"]), ({"log_every": 0}, ["'log_every'"]),
    ({"save_every": 1 << 41}, ["'save_every'"])])
def test_a_wrong_value_is_named_with_what_is_allowed(changes: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(SettingsError) as e:
        TrainSettings(**{"out": "run", **changes})
    for word in words:
        assert word in str(e.value)


def test_defaults_are_right_and_resolved() -> None:
    s = TrainSettings(out="run")
    assert s.warmup == 5.0 and s.resolved()["warmup"] == 5.0
    assert TrainSettings(out="run", epochs=8).warmup == 0.8
    assert TrainSettings(out="run", warmup=0).warmup == 0.0
    assert type(TrainSettings(out="run", lr=1).lr) is float, "a whole number for a float becomes one"


def edits(word: str) -> st.SearchStrategy[str]:
    """One letter left out, doubled, or two exchanged."""
    at = st.integers(0, len(word) - 2)
    return st.one_of(at.map(lambda i: word[:i] + word[i + 1:]), at.map(lambda i: word[:i] + word[i] + word[i:]),
                     at.map(lambda i: word[:i] + word[i + 1] + word[i] + word[i + 2:]))


@given(data=st.data(), name=st.sampled_from([n for n in NAMES if len(n) > 3]))
@tries(max_examples=300, deadline=None)
def test_every_one_edit_typo_gets_the_right_suggestion(data: st.DataObject, name: str) -> None:
    typo = data.draw(edits(name))
    if typo in NAMES:
        return
    with pytest.raises(SettingsError, match="there is no setting") as e:
        TrainSettings.of({"out": "run", typo: 1})
    assert f"{name!r}" in str(e.value).partition("Did you mean")[2]


def test_toml_goes_both_ways(tmp_path: Path) -> None:
    odd = 'a "quoted"\\ folder\n\t\x07é \U0001f3a8'
    s = Recipe(out=odd, data="digits", lr=1e-3, betas=(0.5, 0.25), sides=(8,), compile=True)
    path = tmp_path / "settings.toml"
    path.write_text(s.to_toml())
    assert Recipe.read(path) == s
    assert "teacher" not in s.to_toml(), "TOML has no word for nothing"
    (tmp_path / "teacher.toml").write_text(s.to_toml() + 'teacher = "resnet18"\n')
    assert Recipe.read(tmp_path / "teacher.toml").teacher == "resnet18"


@given(st.dictionaries(st.text(), st.text() | st.booleans() | st.integers(-2**63, 2**63 - 1) | st.lists(st.text())
                       | st.floats(allow_nan=False, allow_infinity=False)))
@tries(max_examples=300, deadline=None)
def test_any_flat_table_survives_toml(values: dict[str, Any]) -> None:
    assert tomllib.loads(toml.dump(values)) == values


@pytest.mark.parametrize(("text", "word"), [
    ("lr = 1e-3\nlr = 2e-3", "not valid TOML"), ("lr 3", "not valid TOML"), ("lrr = 1", "Did you mean 'lr'"),
    ("lr = 1", "'out' is missing"),
    ("lr = 'x'", "a number"), ("[lr]\na = 1", "a number"), ("lr = nan", "nan"), ("\x00", "not valid TOML"),
    ("betas = [0.9, 'x']", "'betas'"), ("epochs = 3.5", "a whole number"),
    ("betas = " + "[" * 5000, "not valid TOML"), ("x" * (2 << 20), "not a file of settings")])
def test_files_that_are_none_are_named(tmp_path: Path, text: str, word: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text if text == "lr = 1" else f'out = "run"\n{text}')
    with pytest.raises(SettingsError, match=word) as e:
        TrainSettings.read(path)
    assert str(path) in str(e.value)


def test_a_file_that_is_absent_or_not_text(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot read"):
        TrainSettings.read(tmp_path / "none.toml")
    with pytest.raises(SettingsError, match="cannot read"):
        TrainSettings.read(tmp_path)
    (tmp_path / "raw.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SettingsError, match="not valid TOML"):
        TrainSettings.read(tmp_path / "raw.toml")


def test_a_number_in_exponent_form_is_a_number(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text('out = "run"\nlr = 1e-3\n')
    assert TrainSettings.read(tmp_path / "s.toml").lr == 0.001


def test_recipes_inherit_the_checks() -> None:
    with pytest.raises(SettingsError, match="'share'.*less than 1"):
        Recipe(out="run", data="x", share=1.0)
    with pytest.raises(SettingsError, match="Did you mean 'hard'"):
        Recipe.of({"out": "run", "data": "x", "mode": "harf"})
    with pytest.raises(SettingsError, match="'sides' is 'a', and must be a whole number"):
        Recipe.of({"out": "run", "data": "x", "sides": ["a"]})
    with pytest.raises(SettingsError, match="a text or left out"):
        Recipe.of({"out": "run", "data": "x", "teacher": 3})


def test_what_matters_when_a_run_goes_on() -> None:
    a = Recipe(out="a", data="here", workers=1)
    assert Recipe(out="b", data="there", workers=4, device="cpu", keep=9).changed(a) == []
    assert Recipe(out="a", data="here", lr=0.5, sides=(8,)).changed(a) == ["lr: 0.001 there, 0.5 here",
                                                                          "sides: (32, 64) there, (8,) here"]


def test_values_that_toml_cannot_say() -> None:
    for value in (object(), {"a": object()}, math.nan, 1 + 2j):
        with pytest.raises(SettingsError, match="cannot be written as TOML"):
            toml.dump({"x": value})


def test_settings_import_no_torch() -> None:
    code = "import sys, vitrail.training.settings; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_checked_is_usable_alone() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Two(Checked):
        a: int = setting(1, low=0)
        b: str = "x"
    assert Two.of({"a": 3}).to_toml() == 'a = 3\nb = "x"\n'
