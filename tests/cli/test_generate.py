"""vitrail generate, and how the other commands meet a model of text."""
import io
import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Ask
from vitrail.cli import parse
from vitrail.cli.main import main
from vitrail.models import load_model
from vitrail.tasks.classification.settings import ClassificationSettings
from vitrail.tasks.language.settings import LanguageSettings
from vitrail.tasks.language.generate import fill, go_on, translate

SMALL = ["--threads", "1", "--batch", "8", "--epochs", "1", "--sentences", "40", "--set", "dim=16", "hidden=32",
         "heads=2"]
MODELS = {"translation": ["--model", "transformer_tiny", "--data", "toy"],
          "causal": ["--model", "gpt_tiny", "--data", "page", "--length", "16", "--stride", "150"],
          "masked": ["--model", "bert_tiny", "--data", "page", "--stride", "150"]}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A finished run of each kind, made by the command itself."""
    folder = tmp_path_factory.mktemp("texts")
    for task, words in MODELS.items():
        assert main(["train", *words, "--out", str(folder / task), *SMALL]) == 0
    return {task: folder / task for task in MODELS}


def test_train_chooses_the_recipe_by_the_model(ask: Ask, runs: dict[str, Path]) -> None:
    found = ask("train", "--settings", runs["causal"] / "settings.toml", "--json")
    assert found.code == 0 and found.json["scores"]["perplexity"]["value"] > 1
    assert Path(found.json["report"]).is_file() and (runs["causal"] / "evaluation.json").is_file()
    plain = ask("train", "--settings", runs["causal"] / "settings.toml").out.splitlines()
    assert plain[0].startswith("held out: perplexity ") and "the weights of step" in plain[0]
    assert plain[1].startswith("bigram: perplexity ") and plain[-1].endswith("report.html")
    said = ask("train", "--settings", runs["translation"] / "settings.toml").out
    assert " %, sentences without a mistake " in said and LanguageSettings.read(runs["translation"] / "settings.toml").data.source == "toy"


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


def test_generate_translates(ask: Ask, runs: dict[str, Path]) -> None:
    model = load_model(runs["translation"])
    found = ask("generate", runs["translation"], "the", "old", "cat", "sees a dog.", "--beams", 3)
    assert found.code == 0 and found.out == translate(model, ["the old cat sees a dog."], beams=3)[0] + "\n"
    greedy = ask("generate", runs["translation"], "the old cat sees a dog.", "--beams", 1, "--json").json
    assert greedy == {"model": "transformer_tiny", "task": "language", "answers": [
        {"text": "the old cat sees a dog.", "answer": translate(model, ["the old cat sees a dog."])[0]}]}
    assert "never saw 'unicorn'" in ask("generate", runs["translation"], "the unicorn sees a dog.").err


def test_generate_goes_on(ask: Ask, runs: dict[str, Path]) -> None:
    model = load_model(runs["causal"])
    words = ["generate", runs["causal"], "We hold", "--tokens", 40, "--count", 2, "--temperature", "1.5", "--top-k", 5,
             "--seed", 3]
    wanted = go_on(model, "We hold", tokens=40, count=2, temperature=1.5, top=5, seed=3)
    assert ask(*words, "--json").json["answers"] == [{"text": "We hold", "answer": [f"We hold{w}" for w in wanted]}]
    assert ask(*words).out == "".join(f"We hold{w}\n" for w in wanted)


def test_generate_fills(ask: Ask, runs: dict[str, Path]) -> None:
    found = ask("generate", runs["masked"], "He has [MASK]efused")
    wanted = fill(load_model(runs["masked"]), "He has [MASK]efused")
    assert found.out == wanted.text + "\n" and repr(wanted.gaps[0][0][0]) in found.err
    answer, = ask("generate", runs["masked"], "He has [MASK]efused", "--json").json["answers"]
    assert answer["answer"] == wanted.text and len(answer["gaps"][0]) == 5


def test_texts_come_from_standard_input(ask: Ask, runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("the cat sees a dog.\n\nthe dog sees a cat.\n"))
    found = ask("generate", runs["translation"], "-", "--json").json["answers"]
    assert [a["text"] for a in found] == ["the cat sees a dog.", "the dog sees a cat."]
    monkeypatch.setattr("sys.stdin", io.StringIO(" \n"))
    assert ask("generate", runs["translation"], "-").code == 1


@pytest.mark.parametrize(("task", "words", "code", "said"), [
    ("causal", ["We", "--beams", "3"], 2, "--beams is for a model that translates, and gpt_tiny goes on"),
    ("translation", ["the cat", "--top-k", "3"], 2, "--top-k is for a model that goes on with texts"),
    ("masked", ["He has"], 1, "no gap"), ("translation", [" "], 1, "no text"), ("causal", [""], 1, "no text"),
    ("masked", ["x" * 40 + "[MASK]"], 1, "longer"), ("translation", ["the cat", "--beams", "0"], 2, "at least 1"),
    ("causal", ["We", "--temperature", "-1"], 2, "at least 0"),
    ("causal", ["We", "--temperature", "x"], 2, "must be a number"),
    ("causal", ["We", "--temperature", "nan"], 2, "nan"), ("causal", ["We", "--device", "tpu"], 2, "'tpu'"),
    ("causal", [], 2, "TEXT")])
def test_what_cannot_be_asked_is_said(ask: Ask, runs: dict[str, Path], task: str, words: list[str], code: int,
                                      said: str) -> None:
    found = ask("generate", runs[task], *words)
    assert found.code == code and said in found.err


def test_generate_wants_a_model_of_text(ask: Ask, runs: dict[str, Path], run: Path, tmp_path: Path) -> None:
    found = ask("generate", runs["causal"].parent / "casual", "We")
    assert found.code == 2 and "Did you mean 'causal'" in found.err
    assert ask("generate", tmp_path, "We").code == 1
    found = ask("generate", run, "We")
    assert found.code == 2 and "models for classification cannot be asked to generate; models for language can" in found.err


def test_a_model_of_text_cannot_be_asked_to_predict(ask: Ask, runs: dict[str, Path], photos: Path) -> None:
    found = ask("predict", runs["causal"], photos)
    assert found.code == 2 and "models for language cannot be asked to predict; models for classification can" in found.err


@pytest.mark.parametrize("kind", MODELS)
def test_evaluate_scores_what_a_run_of_text_held_out(ask: Ask, runs: dict[str, Path], tmp_path: Path, kind: str) -> None:
    found = ask("evaluate", runs[kind], "--held-out-of-run", "--json", "--html", tmp_path / "page.html")
    then = json.loads((runs[kind] / "evaluation.json").read_text("utf-8"))["scores"]
    assert found.code == 0 and found.json["scores"]["perplexity"]["value"] == pytest.approx(then["perplexity"]["value"])
    page = (tmp_path / "page.html").read_text("utf-8")
    assert "perplexity" in page and "Answers" in page
    plain = ask("evaluate", runs[kind], MODELS[kind][3]).out
    assert "perplexity" in plain and "accuracy of tokens" in plain


@pytest.mark.parametrize(("kind", "text", "rows"), [("translation", "the old cat sees a dog.", None),
                                                    ("causal", "We hold", 1), ("masked", "He has [MASK]efu[MASK]ed", 2)])
def test_explain_draws_what_the_words_of_an_answer_rest_on(ask: Ask, runs: dict[str, Path], tmp_path: Path, kind: str,
                                                           text: str, rows: int | None) -> None:
    found = ask("explain", runs[kind], text, "--out", tmp_path / "maps", "--arrays", "--json")
    assert found.code == 0, found.err
    told, = found.json
    assert told["text"] == text and Path(told["overlay"]).name == "text-1-relevance.png"
    explained = json.loads(Path(told["array"]).read_text("utf-8"))
    assert rows in (None, len(explained["targets"])) and explained["targets"]
    assert "no gap" in ask("explain", runs["masked"], "He has", "--out", tmp_path / "none").err


@pytest.mark.parametrize("kind", MODELS)
def test_models_of_text_are_exported_and_optimised(ask: Ask, runs: dict[str, Path], tmp_path: Path, kind: str) -> None:
    data = MODELS[kind][3]
    found = ask("export", runs[kind], tmp_path / "model.pt2", "--images", data, "--json")
    assert found.code == 0, found.err
    assert found.json["agreement"] == 1 and found.json["samples"] > 1
    tried = ask("optimize", runs[kind], "--images", data, "--precision", "fp32", "--rounds", "1", "--most", "8", "--json")
    assert tried.code == 0 and tried.json["trials"][0]["agreement"] == 1, tried.err


def test_the_papers_of_a_run_are_json(runs: dict[str, Path]) -> None:
    for run in runs.values():
        found = json.loads((run / "evaluation.json").read_text("utf-8"))
        assert found["scores"]["perplexity"]["value"] > 1 and found["examples"]
