"""Settings from flags and from a file: what is read right, and what is refused with the right word."""
import random
import string
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Ask
from vitrail.cli import parse
from vitrail.core.errors import SettingsError
from vitrail.cli.flags import dashed
from vitrail.core import toml
from vitrail.core.leaves import leaves
from vitrail.tasks.classification.settings import ClassificationSettings

NAMES = [leaf.name for leaf in leaves(ClassificationSettings)]


def read(*words: str) -> ClassificationSettings:
    return parse.read(ClassificationSettings, ["--out", "r", *words])[0]


def refusal(*words: str) -> str:
    with pytest.raises(SettingsError) as caught:
        parse.read(ClassificationSettings, list(words))
    return str(caught.value)


@pytest.mark.parametrize(("text", "value"), [
    ("1e-3", 1e-3), ("1E5", 1e5), ("7", 7), ("-7", -7), ("1_000", 1000), ("0x10", 16), ("0.5", 0.5), ("true", True),
    ("[7, 7]", [7, 7]), ("[[1], [2]]", [[1], [2]]), ("'7'", "7"), ('"a b"', "a b"), ("deit_s16", "deit_s16"), ("", ""),
    ("yes", "yes"), ("None", "None"), ("1e", "1e"), ("[1, 2", "[1, 2"), ("1\nother = 2", "1\nother = 2"),
    ("2024-01-01", "2024-01-01"), ("{a = 1}", "{a = 1}"), ("[" * 5000, "[" * 5000), ("a = 1", "a = 1")])
def test_a_word_is_its_value_as_toml_or_itself(text: str, value: Any) -> None:
    found = toml.value(text)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize("words", [["--weight-decay", "0.1"], ["--weight_decay", "0.1"], ["--weight-decay=0.1"],
                                   ["weight_decay=0.1"], ["weight-decay=1e-1"], ["--weight-decay", ".1"]])
def test_a_setting_is_written_in_any_of_these_ways(words: list[str]) -> None:
    assert read(*words).training.weight_decay == 0.1


def test_values_are_read_by_the_kind_of_their_setting() -> None:
    found = read("--lr", "1e-3", "--epochs", "7", "--betas", "0.8", "0.99", "--model", "vit_s16", "--data", "1e-3",
                 "--compile", "--no-deterministic", "--precision", "bf16", "--warmup", "2", "--seed", "12")
    training = found.training
    assert (training.lr, training.epochs, training.betas, training.warmup) == (0.001, 7, (0.8, 0.99), 2.0)
    assert (found.model.name, found.data.source, training.precision, training.seed) == ("vit_s16", "1e-3", "bf16", 12)
    assert training.compile is True and training.deterministic is False
    assert type(training.warmup) is float and type(training.epochs) is int


@pytest.mark.parametrize(("words", "value"), [
    (["--compile"], True), (["--no-compile"], False), (["--compile", "true"], True), (["--compile", "false"], False),
    (["--compile=true"], True), (["compile=false"], False), (["--no_compile"], False)])
def test_yes_and_no(words: list[str], value: bool) -> None:
    assert read(*words).training.compile is value


@pytest.mark.parametrize("words", [
    ["--set", "depth=1", "dim=32", "patch=8"], ["--set", "depth=1", "--set", "dim=32", "patch=8"],
    ["--set=depth=1", "set=dim=32", "--set", "patch=8"], ["set=['depth=1', 'dim=32', 'patch=8']"]])
def test_a_list_grows(words: list[str]) -> None:
    assert read(*words).model.arguments() == {"depth": 1, "dim": 32, "patch": 8}


def test_betas_as_a_list() -> None:
    for words in (["betas=[0.5, 0.6]"], ["--betas", "0.5", "0.6", "--lr", "1"], ["--training.betas", "0.5", "0.6"]):
        assert read(*words).training.betas == (0.5, 0.6)


def test_flags_win_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "s.toml"
    file.write_text('out = "from_file"\nlr = 1e-3\nepochs = 3\nbetas = [0.8, 0.9]\ncompile = true\n')
    words = ["--epochs", "5", "--settings", str(file), "--no-compile", "--json"]
    found, common = parse.read(ClassificationSettings, words)
    training = found.training
    assert (found.out, training.lr, training.epochs, training.betas) == ("from_file", 0.001, 5, (0.8, 0.9))
    assert training.compile is False
    assert common.json is True and common.debug is False


def test_the_resolved_settings_of_a_run_read_back_the_same(tmp_path: Path) -> None:
    first = read("--lr", "3e-4", "--set", "depth=2", "dim=64", "--data", 'a "quoted" \\ name', "--betas", "0.1",
                 "0.2")
    (tmp_path / "s.toml").write_text(first.to_toml())
    assert parse.read(ClassificationSettings, ["--settings", str(tmp_path / "s.toml")])[0] == first


def test_every_typo_of_one_letter_is_refused_with_the_right_name() -> None:
    draw = random.Random(7)
    seen = 0
    for name in NAMES:
        for _ in range(6):
            at, letter = draw.randrange(len(name)), draw.choice(string.ascii_lowercase)
            typo = draw.choice([name[:at] + name[at + 1:], name[:at] + letter + name[at:],
                                name[:at] + letter + name[at + 1:],
                                name[:at] + name[at + 1:at + 2] + name[at] + name[at + 2:]])
            if not typo or typo in NAMES or typo in parse.COMMON:
                continue
            for words in ([f"--{typo}", "1"], [f"{typo}=1"]):
                said = refusal("--out", "r", *words)
                assert repr(typo) in said and repr(name) in said, (name, typo, said)
            seen += 1
    assert seen > 200


@pytest.mark.parametrize("name", NAMES)
def test_a_typo_in_a_file_is_refused_with_the_right_name_and_the_file(tmp_path: Path, name: str) -> None:
    file = tmp_path / "s.toml"
    file.write_text(f"out = 'r'\n{name}x = 1\n")
    said = refusal("--settings", str(file))
    assert repr(name) in said and repr(f"{name}x") in said and str(file) in said


HOSTILE = [
    (["--lr"], "--lr needs a value"), (["--lr", "--epochs", "3"], "--lr needs a value"),
    (["--betas", "0.9"], "2 values"),
    (["--betas=0.9"], "'training.betas'"), (["--betas", "0.9", "1.0"], "less than 1"),
    (["--betas", "a", "b"], "'training.betas'"),
    (["--set"], "--set needs"), (["--set", "depth"], "takes name=value"),
    (["--set", "depth=1", "depth=2"], "twice"),
    (["--set", "1x=2"], "takes name=value"), (["--lr", "0"], "more than 0"), (["--lr", "-1"], "more than 0"),
    (["--lr", "nan"], "'training.lr'"), (["--lr", "inf"], "'training.lr'"), (["--lr", "fast"], "must be a number"),
    (["--lr", ""], "'training.lr'"),
    (["--lr", "1,5"], "'training.lr'"), (["--lr", "[1]"], "'training.lr'"), (["--lr", "true"], "'training.lr'"),
    (["--lr", "1", "--lr", "2"], "twice"),
    (["lr=1", "--lr", "1"], "twice"), (["--lr=1e999"], "'training.lr'"), (["--epochs", "1.5"], "a whole number"),
    (["--epochs", "0"], "at least 1"), (["--epochs", "1e3"], "a whole number"), (["--epochs", "ten"], "a whole number"),
    (["--epochs", "9" * 40], "at most"), (["--epochs", "9" * 5000], "'training.epochs'"),
    (["--batch", "0"], "at least 1"),
    (["--batch", "-4"], "at least 1"), (["--batch", "8", "--accumulate", "3"], "divide"),
    (["--seed", "-1"], "at least 0"),
    (["--seed", str(2**63)], "'training.seed'"), (["--min-lr", "1", "--lr", "0.1"], "'training.min_lr'"),
    (["--warmup", "200"], "'training.warmup'"),
    (["--precision", "fp16"], "bf16"), (["--precision", "BF16"], "'bf16'"), (["--strategy", "dpp"], "'ddp'"),
    (["--resume", "yes"], "'auto'"), (["--on-error", "skipp"], "'skip'"), (["--distillation", "hrad"], "'hard'"),
    (["--distillation", "hard"], "teacher"), (["--teacher", "x"], "teacher"), (["--compile", "maybe"], "'maybe'"),
    (["--compile=maybe"], "true or false"), (["--compile=1"], "true or false"),
    (["--no-compile=true"], "takes no value"),
    (["--no-lr"], "'no_lr'"), (["--no-compil"], "'no_compile'"), (["--compile", "--no-compile"], "twice"),
    (["--out", "s"], "twice"), (["-lr", "1"], "two dashes"), (["lr"], "--name value"), (["--"], "--name value"),
    (["="], "''"),
    (["--=1"], "''"), (["--LR", "1"], "'LR'"), (["--flip", "1.5"], "at most 1"), (["--smoothing", "1"], "less than 1"),
    (["--crop-scale", "0"], "at least 0.001"), (["--size", "-16"], "at least 0"),
    (["--size", "16x16"], "a whole number"),
    (["--val-fraction", "1"], "less than 1"), (["--ema", "1"], "less than 1"), (["--layer-decay", "0"], "more than 0"),
    (["--keep", "0"], "at least 1"), (["--threads", "-1"], "at least 0"), (["--workers", "many"], "a whole number"),
    (["--settings"], "--settings needs"), (["--settings", "a", "--settings", "b"], "twice"), (["--settings", "/"], "/"),
    (["--settings", "no/such.toml"], "no/such.toml"), (["--settings", "a\0b"], ""), (["--jsn"], "'json'"),
    (["--json=1"], "'json'"), (["--setings", "x"], "'settings'"), (["--__class__", "1"], "'__class__'"),
    (["--resolved", "1"], "'resolved'"), (["--weights-decay", "1"], "'weight_decay'")]


@pytest.mark.parametrize(("words", "said"), HOSTILE, ids=lambda x: " ".join(x)[:40] if isinstance(x, list) else "")
def test_what_cannot_be_a_setting_is_refused(ask: Ask, words: list[str], said: str) -> None:
    found = ask("train", "--out", "r", *words)
    assert found.code == 2 and found.err.startswith("error: ") and len(found.err.splitlines()) == 1
    assert said in found.err and not Path("r").exists()


@pytest.mark.parametrize("out", ["", "  ", "a\0b"])
def test_an_impossible_folder_is_refused(ask: Ask, out: str) -> None:
    found = ask("train", f"--out={out}")
    assert found.code == 2 and "'training.out'" in found.err


@pytest.mark.parametrize(("text", "said"), [
    ("lr = 1\nlr = 2", "TOML"), ("lr", "TOML"), ("lr = fast", "TOML"), ("lr = 'fast'", "must be a number"),
    ("[lr]\na = 1", "'training.lr'"),
    ("[trainin]\nlr = 1", "'training'"), ("[training]\nlr = 0", "training.lr'"),
    ("[training]\nlrr = 1", "training.lr'"),
    ("lr = 1\n[training]\nlr = 1", "twice"), ("epochs = 1.0", "a whole number"), ("betas = [0.9]", "'training.betas'"),
    ("betas = 0.9", "'training.betas'"), ("model = 5", "a text"), ("compile = 'yes'", "true or false"),
    ("compile = 1", "true or false"),
    ("lr = nan", "'training.lr'"), ("set = 'depth=1'", "'model.set'"), ("set = [1]", "'model.set'"),
    ("weight-decay = 1", "'weight_decay'"),
    ("out = ''", "'training.out'"), ("lr = 1979-05-27", "'training.lr'"), ("\0", "TOML"),
    ("lr = " + "[" * 3000, "TOML"),
    ("json = true", "'json'")])
def test_what_cannot_stand_in_a_file_is_refused_by_the_files_name(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "s.toml"
    file.write_text(("" if "out" in text else "out = 'r'\n") + text + "\n")
    found = refusal("--settings", str(file))
    assert said in found and str(file) in found


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_bytes(b"\xff\xfe\x00lr")
    assert "not valid TOML" in refusal("--settings", str(tmp_path / "s.toml"))
    (tmp_path / "big.toml").write_bytes(b"#" * (1 << 21))
    assert "not a file of settings" in refusal("--settings", str(tmp_path / "big.toml"))


def test_the_page_shows_each_setting_with_its_default_and_its_range(ask: Ask) -> None:
    lines = {line.split()[0]: line for line in ask("train", "--help").out.splitlines() if line.startswith("  --")}
    for leaf in leaves(ClassificationSettings):
        flag = f"--[no-]{dashed(leaf.name)}" if leaf.kind is bool else f"--{dashed(leaf.name)}"
        assert leaf.help and leaf.help in lines[flag]
    assert "default 0.001" in lines["--lr"] and "above 0, at most 100" in lines["--lr"]
    assert "needed" in lines["--out"] and "0 to 1" in lines["--flip"] and "fp32|bf16" in lines["--precision"]
    assert "default 0.9 0.999" in lines["--betas"] and "default yes" in lines["--[no-]deterministic"]
