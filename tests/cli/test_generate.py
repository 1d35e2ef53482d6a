"""vitrail generate, and how the other commands meet a model of text."""
import io
import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Ask
from vitrail.cli import parse
from vitrail.models import load_model
from vitrail.tasks.classification.settings import ClassificationSettings
from vitrail.tasks.language.generate import fill, go_on, translate
from vitrail.tasks.language.settings import LanguageSettings


def test_train_chooses_the_recipe_by_the_model(ask: Ask, text_runs: dict[str, Path]) -> None:
    found = ask("train", "--settings", text_runs["causal"] / "settings.toml", "--json")
    assert found.code == 0 and found.json["scores"]["perplexity"]["value"] > 1
    assert Path(found.json["report"]).is_file() and found.json["scores"] == json.loads(
        (text_runs["causal"] / "evaluation.json").read_text("utf-8"))["scores"]
    plain = ask("train", "--settings", text_runs["causal"] / "settings.toml").out.splitlines()
    assert plain[0].startswith("held out: perplexity ") and "the weights of step" in plain[0]
    assert any(line.startswith("bigram: perplexity ") for line in plain)
    assert plain[-2:] == [f"model   {text_runs['causal'] / 'model'}", f"report  {text_runs['causal'] / 'report.html'}"]
    said = ask("train", "--settings", text_runs["translation"] / "settings.toml").out
    assert " %, sentences without a mistake " in said
    assert LanguageSettings.read(text_runs["translation"] / "settings.toml").data.source == "toy"


def test_the_help_is_that_of_the_model(ask: Ask) -> None:
    images, text = ask("train", "--help").out, ask("train", "--model", "gpt_tiny", "--help").out
    assert "--randaugment" in images and "vitrail train --model gpt_tiny --help" in images
    assert "--sentences" in text and "--randaugment" not in text and "--model gpt_tiny --data FILE.txt" in text
    assert "default 32" in next(line for line in text.splitlines() if line.strip().startswith("--batch"))


def test_a_flag_of_images_is_no_flag_of_text(ask: Ask, tmp_path: Path) -> None:
    found = ask("train", "--model", "gpt_tiny", "--data", "page", "--out", tmp_path / "r", "--flip", "0.5")
    assert found.code == 2 and "'flip'" in found.err
    found = ask("train", "--model", "vit_ti16", "--out", tmp_path / "r", "--sentences", "50")
    assert found.code == 2 and "'sentences'" in found.err
    found = ask("train", "--model", "gpt_tiny", "--data", tmp_path, "--out", tmp_path / "r")
    assert found.code == 1 and "give page or toy" in found.err.replace("toy or page", "page or toy")


@pytest.mark.parametrize(("words", "value"), [
    (["--model", "a"], "a"), (["--model=a", "--lr", "1"], "a"), (["model=a"], "a"), (["--lr", "1"], None),
    (["--settings", "FILE"], "from_file"), (["--settings=FILE", "--model", "a"], "a"), (["--model"], None),
    (["a", "b"], None)])
def test_one_value_is_found_before_the_rest_is_read(tmp_path: Path, words: list[str], value: Any) -> None:
    file = tmp_path / "s.toml"
    for text in ('model = "from_file"\n', '[model]\nname = "from_file"\n'):
        file.write_text(text)
        given = [w.replace("FILE", str(file)) for w in words]
        assert parse.value_of(ClassificationSettings, "model.name", given) == value
    assert parse.value_of(ClassificationSettings, "model.name", ["--settings", str(tmp_path / "gone.toml")]) is None


def test_generate_translates(ask: Ask, text_runs: dict[str, Path]) -> None:
    model = load_model(text_runs["translation"])
    found = ask("generate", text_runs["translation"], "the", "old", "cat", "sees a dog.", "--beams", 3)
    assert found.code == 0 and found.out == translate(model, ["the old cat sees a dog."], beams=3)[0] + "\n"
    greedy = ask("generate", text_runs["translation"], "the old cat sees a dog.", "--beams", 1, "--json").json
    assert greedy == {"model": "transformer_tiny", "task": "language", "answers": [
        {"text": "the old cat sees a dog.", "answer": translate(model, ["the old cat sees a dog."])[0]}]}
    assert "never saw 'unicorn'" in ask("generate", text_runs["translation"], "the unicorn sees a dog.").err


def test_generate_goes_on(ask: Ask, text_runs: dict[str, Path]) -> None:
    model = load_model(text_runs["causal"])
    words = ["generate", text_runs["causal"], "We hold", "--tokens", 40, "--count", 2,
             "--temperature", "1.5", "--top-k", 5, "--seed", 3]
    wanted = go_on(model, "We hold", tokens=40, count=2, temperature=1.5, top=5, seed=3)
    assert ask(*words, "--json").json["answers"] == [{"text": "We hold", "answer": [f"We hold{w}" for w in wanted]}]
    assert ask(*words).out == "".join(f"We hold{w}\n" for w in wanted)


def test_generate_fills(ask: Ask, text_runs: dict[str, Path]) -> None:
    found = ask("generate", text_runs["masked"], "He has [MASK]efused")
    wanted = fill(load_model(text_runs["masked"]), "He has [MASK]efused")
    assert found.out == wanted.text + "\n" and repr(wanted.gaps[0][0][0]) in found.err
    answer, = ask("generate", text_runs["masked"], "He has [MASK]efused", "--json").json["answers"]
    assert answer["answer"] == wanted.text and len(answer["gaps"][0]) == 5


def test_texts_come_from_standard_input(ask: Ask, text_runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("the cat sees a dog.\n\nthe dog sees a cat.\n"))
    found = ask("generate", text_runs["translation"], "-", "--json").json["answers"]
    assert [a["text"] for a in found] == ["the cat sees a dog.", "the dog sees a cat."]
    monkeypatch.setattr("sys.stdin", io.StringIO(" \n"))
    assert ask("generate", text_runs["translation"], "-").code == 1


@pytest.mark.parametrize(("task", "words", "code", "said"), [
    ("causal", ["We", "--beams", "3"], 2, "--beams is for a model that translates, and gpt_tiny goes on"),
    ("translation", ["the cat", "--top-k", "3"], 2, "--top-k is for a model that goes on with texts"),
    ("masked", ["He has"], 1, "no gap"), ("translation", [" "], 1, "no text"), ("causal", [""], 1, "no text"),
    ("masked", ["x" * 40 + "[MASK]"], 1, "longer"), ("translation", ["the cat", "--beams", "0"], 2, "at least 1"),
    ("causal", ["We", "--temperature", "-1"], 2, "at least 0"),
    ("causal", ["We", "--temperature", "x"], 2, "must be a number"),
    ("causal", ["We", "--temperature", "nan"], 2, "nan"), ("causal", ["We", "--device", "tpu"], 2, "'tpu'"),
    ("causal", [], 2, "TEXT")])
def test_what_cannot_be_asked_is_said(ask: Ask, text_runs: dict[str, Path], task: str, words: list[str], code: int,
                                      said: str) -> None:
    found = ask("generate", text_runs[task], *words)
    assert found.code == code and said in found.err


def test_generate_wants_a_model_that_can(ask: Ask, text_runs: dict[str, Path], run: Path, tmp_path: Path) -> None:
    found = ask("generate", text_runs["causal"].parent / "casual", "We")
    assert found.code == 2 and "Did you mean 'causal'" in found.err
    assert ask("generate", tmp_path, "We").code == 1
    found = ask("generate", run, "We")
    assert found.code == 2 and "models for classification cannot be asked to generate" in found.err
    assert "models for language can" in found.err


def test_what_a_model_of_text_cannot_do_says_who_can(ask: Ask, text_runs: dict[str, Path], photos: Path) -> None:
    found = ask("predict", text_runs["causal"], photos)
    assert found.code == 2 and not found.out
    assert "models for language cannot be asked to predict; models for classification can" in found.err


def test_the_papers_of_a_run_are_json(text_runs: dict[str, Path]) -> None:
    for run in text_runs.values():
        found = json.loads((run / "evaluation.json").read_text("utf-8"))
        assert found["scores"]["perplexity"]["value"] > 1 and found["examples"]
