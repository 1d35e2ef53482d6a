"""Runs and models that vitrail wrote before a task declared itself (tests/golden/format_1): they load, answer as they
did, and go on."""
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import vitrail
from tests.cli.conftest import Ask, ask       # noqa: F401
from vitrail.core.errors import CheckpointError
from vitrail.data.open import open_dataset
from vitrail.data.transforms import evaluation_transform
from vitrail.tasks.classification.settings import ClassificationSettings
from vitrail.tasks.language.generate import fill, go_on, translate

OLD = Path(__file__).parents[1] / "golden" / "format_1"
EXPECTED: dict[str, Any] = json.loads((OLD / "expected.json").read_text("utf-8"))


@pytest.mark.parametrize("name", ["classifier", "mixed"])
def test_an_old_classifier_answers_as_it_did(name: str, tmp_path: Path) -> None:
    model = vitrail.load_model(OLD / name)
    digits = open_dataset("digits")
    transform = evaluation_transform(model.config.spec.preprocessing)
    with torch.no_grad():
        answer = model(torch.stack([transform(digits.image(i)) for i in range(4)]))
    torch.testing.assert_close(answer, torch.tensor(EXPECTED[name]), rtol=1e-6, atol=1e-6)
    assert model.config.mixer == ("linear_attention" if name == "mixed" else "")
    again = vitrail.load_model(vitrail.save_model(model, tmp_path / "saved"))
    assert again.config == model.config and json.loads((tmp_path / "saved" / "config.json").read_text())["format"] \
        == "vitrail-2"


def test_old_models_of_text_answer_as_they_did() -> None:
    told, = go_on(vitrail.load_model(OLD / "writer"), "We hold these truths", tokens=30, temperature=0)
    assert [told] == EXPECTED["writer"]
    filled = fill(vitrail.load_model(OLD / "filler"), "We hold th[MASK]se truths")
    text, gaps = EXPECTED["filler"]
    assert filled.text == text
    for (unit, share), (unit_then, share_then) in zip(filled.gaps[0], gaps[0], strict=True):
        assert unit == unit_then and share == pytest.approx(share_then, rel=1e-5)
    translator = vitrail.load_model(OLD / "translator")
    assert translator.config.task == "language" and translator.config.spec.kind == "translation"
    assert translate(translator, ["the old cat sees a dog.", "the dog sees a cat."], beams=4) == EXPECTED["translator"]


def test_a_run_that_was_stopped_then_goes_on_to_the_scores_that_it_had(tmp_path: Path, ask: Ask) -> None:      # noqa: F811
    run = tmp_path / "run"
    shutil.copytree(OLD / "unfinished", run)
    settings = ClassificationSettings.read(run / "settings.toml")
    (run / "settings.toml").write_text(settings.updated(out=str(run)).to_toml())
    with pytest.raises(CheckpointError, match="has not finished"):
        vitrail.load_model(run)
    told = ask("train", "--settings", run / "settings.toml", "--json")
    assert told.code == 0 and "going on from step 47 of 132" in told.err, told.err
    scores = told.json["scores"]
    assert scores["top1"]["value"] == pytest.approx(EXPECTED["unfinished"]["top1"])
    assert scores["nll"]["value"] == pytest.approx(EXPECTED["unfinished"]["nll"], rel=1e-4)


@pytest.mark.parametrize("name", ["classifier", "mixed", "translator", "writer", "filler"])
def test_what_an_old_run_held_out_is_known(name: str, ask: Ask) -> None:      # noqa: F811
    told = ask("evaluate", OLD / name, "--held-out-of-run", "--json")
    assert told.code == 0 and told.json["samples"] > 0, told.err
