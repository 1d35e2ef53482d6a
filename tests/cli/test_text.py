"""Models of text at the command line: judged, explained, reported on and asked, as those of images are."""
import json
from pathlib import Path

import pytest
from PIL import Image

from tests.cli.conftest import Ask
from vitrail.core.task import find_task

TASK = find_task("language")
KINDS = ("translation", "causal", "masked")
SUBJECTS = {"translation": "the old cat sees a dog.", "causal": "We hold", "masked": "He has [MASK]efused"}


@pytest.mark.parametrize("kind", KINDS)
def test_the_texts_that_a_run_held_out_give_the_scores_that_it_wrote(ask: Ask, text_runs: dict[str, Path],
                                                                     kind: str) -> None:
    written = json.loads((text_runs[kind] / "evaluation.json").read_text("utf-8"))
    answer = ask("evaluate", text_runs[kind], "--held-out-of-run", "--json")
    assert answer.code == 0 and not answer.err
    judged = answer.json
    assert (judged["samples"], judged["tokens"]) == (written["samples"], written["tokens"])
    for name, score in written["scores"].items():
        assert judged["scores"][name]["value"] == pytest.approx(score["value"], rel=1e-5)
    table = ask("evaluate", text_runs[kind], "--held-out-of-run").out
    for name in written["scores"]:
        assert TASK.metric(name).label in table


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_of_text_is_judged_on_other_texts(ask: Ask, text_runs: dict[str, Path], tmp_path: Path,
                                                  kind: str) -> None:
    """Texts with units that the model never saw are judged, and their answers shown."""
    source = tmp_path / ("pairs.tsv" if kind == "translation" else "text.txt")
    line = "the zebra sees 7 dogs.\tmira solda."
    lines = [line] * 8 if kind == "translation" else ["The qualité of 7 zebras, §2. "] * 8
    source.write_text("\n".join(lines), "utf-8")
    out, page = tmp_path / "scores.json", tmp_path / "page.html"
    answer = ask("evaluate", text_runs[kind], source, "--out", out, "--html", page)
    assert answer.code == 0, answer.err
    assert json.loads(out.read_text("utf-8"))["examples"] and str(source) in answer.out
    assert "<html" in page.read_text("utf-8") and "learned from" not in answer.err
    again = ask("evaluate", text_runs[kind], source, "--out", out)
    assert again.code == 1 and "exists already" in again.err


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_of_text_has_a_report(text_runs: dict[str, Path], kind: str) -> None:
    page = (text_runs[kind] / "report.html").read_text("utf-8")
    judged = json.loads((text_runs[kind] / "evaluation.json").read_text("utf-8"))
    assert "held-out perplexity" in page and "Answers" in page and "<svg" in page
    assert f"{judged['scores']['perplexity']['value']:.3f}" in page
    for name in judged["scores"]:
        assert TASK.metric(name).label in page


@pytest.mark.parametrize("method", ["relevance", "rollout", "attention"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_text_is_explained(ask: Ask, text_runs: dict[str, Path], tmp_path: Path, kind: str, method: str) -> None:
    words = ["explain", text_runs[kind], SUBJECTS[kind], "--method", method, "--out", tmp_path]
    row, = ask(*words, "--arrays", "--json").json
    assert (row["input"], row["method"]) == (SUBJECTS[kind], method) and 0 < row["probability"] <= 1 and row["label"]
    assert [Path(row[name]).name for name in ("overlay", "array")] == [f"text-1-{method}.png", f"text-1-{method}.json"]
    with Image.open(row["overlay"]) as drawing:
        assert drawing.mode == "RGB"
    numbers = json.loads(Path(row["array"]).read_text("utf-8"))
    assert numbers["targets"][0]["name"] in row["label"]
    for target in numbers["targets"]:
        assert {name: len(values) for name, values in target["relevance"].items()} == {
            name: len(tokens) for name, tokens in numbers["tokens"].items()}
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    again = ask(*words)
    assert again.code == 1 and "exists already" in again.err
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_unit_is_asked_about_and_each_text_has_its_own_picture(ask: Ask, text_runs: dict[str, Path],
                                                                tmp_path: Path) -> None:
    rows = ask("explain", text_runs["causal"], "We hold", "He has", "--target", "e", "--out", tmp_path, "--json").json
    assert [row["label"] for row in rows] == ["e", "e"] and [row["input"] for row in rows] == ["We hold", "He has"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["text-1-relevance.png", "text-2-relevance.png"]
    skipped = ask("explain", text_runs["causal"], "", "We", "--on-error", "skip", "--out", tmp_path / "s", "--json")
    assert skipped.code == 0 and [row["input"] for row in skipped.json] == ["We"] and "left out: " in skipped.err


@pytest.mark.parametrize(("kind", "words", "code", "said"), [
    ("causal", ["We", "--target", "nought"], 1, "does not know 'nought'"), ("masked", ["He has"], 1, "no gap"),
    ("translation", ["the cat", "--target", "un"], 1, "a target is for one alone"), ("causal", [""], 1, "no text"),
    ("causal", ["We", "--method", "gradcam"], 1, "'gradcam'"), ("causal", [], 2, "INPUT"),
    ("causal", ["We", "--method", "attention", "--layer", "0"], 1, "is not explained by layer"),
    ("causal", ["We", "--method", "attention", "--head", "0"], 1, "is not explained by head")])
def test_a_text_explained_wrongly(ask: Ask, text_runs: dict[str, Path], tmp_path: Path, kind: str, words: list[str],
                                  code: int, said: str) -> None:
    answer = ask("explain", text_runs[kind], *words, "--out", tmp_path / "o")
    assert answer.code == code and said in answer.err and not (tmp_path / "o").exists()


@pytest.mark.parametrize(("words", "code", "said"), [
    (["toy", "--split", "val"], 2, "leave out --split"), (["nowhere.txt"], 1, "nowhere.txt"),
    (["./nowhere.txt"], 1, "nowhere.txt"), ([], 2, "--held-out-of-run"),
    (["toy", "--optimize", "fp32"], 2, "--optimize")])
def test_a_model_of_text_evaluated_wrongly(ask: Ask, text_runs: dict[str, Path], words: list[str], code: int,
                                           said: str) -> None:
    answer = ask("evaluate", text_runs["causal"], *words)
    assert answer.code == code and said in answer.err and not answer.out


def test_generate_asks_the_saved_model_like_its_run(ask: Ask, text_runs: dict[str, Path]) -> None:
    for kind in KINDS:
        folders = text_runs[kind], text_runs[kind] / "model"
        run, model = (ask("generate", folder, SUBJECTS[kind]) for folder in folders)
        assert run.code == model.code == 0 and run.out == model.out and run.out.strip()
