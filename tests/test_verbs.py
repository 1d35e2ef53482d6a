"""The Python surface: the same verbs as the commands, for models of any task."""
from pathlib import Path

import numpy as np
import pytest
import torch

import vitrail
from tests.cli.conftest import draw
from vitrail.core.errors import CheckpointError, ModelError, SettingsError

SMALL = dict(set=("depth=1", "dim=32", "heads=2", "patch=8"), size=16, batch=8, epochs=2, lr=3e-3, randaugment=0,
             erase=0.0, crop_scale=0.9, crop=1.0, threads=1)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw(tmp_path_factory.mktemp("verbs") / "photos")


@pytest.fixture(scope="module")
def run(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return vitrail.train("vit_ti16", photos, tmp_path_factory.mktemp("runs") / "first", **SMALL)


def test_a_model_is_trained_scored_and_asked(run: Path, photos: Path) -> None:
    evaluation = vitrail.evaluate(run)
    assert evaluation.samples == 8 and evaluation.scores["top1"].value > 0.5
    assert vitrail.evaluate(vitrail.load_model(run), photos, batch=7).samples == 40
    answers = list(vitrail.predict(run, [photos / "dark" / "0.png", np.full((20, 20, 3), 250, np.uint8)], top=2))
    assert [a.label for a in answers] == ["dark", "light"] and len(answers[0].top) == 2
    explanation = vitrail.explain(vitrail.load_model(run), torch.zeros(3, 20, 20, dtype=torch.uint8), method="rollout")
    assert explanation.label == "dark" and explanation.map.shape == (2, 2)


def test_a_model_of_text_has_the_same_verbs(tmp_path: Path) -> None:
    run = vitrail.train("gpt_tiny", "page", tmp_path / "run", set=("dim=16", "hidden=32", "heads=2"), length=16,
                        stride=150,
                        batch=8, epochs=1, threads=1)
    assert vitrail.evaluate(run).scores["perplexity"].value > 1
    answer = next(vitrail.generate(run, ["We hold"], tokens=5, temperature=0))
    assert answer.answers[0].startswith("We hold") and len(answer.answers[0]) == len("We hold") + 5
    explanation = vitrail.explain(vitrail.load_model(run), "We hold")
    assert explanation.relevance["text"].shape == (1, 8)


def test_what_cannot_be_asked_is_said(run: Path, photos: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no option 'bacth'. Did you mean 'batch'"):
        vitrail.evaluate(run, photos, bacth=3)
    with pytest.raises(SettingsError, match="no setting 'epoch'. Did you mean 'epochs'"):
        vitrail.train("vit_ti16", photos, tmp_path / "x", epoch=3)
    with pytest.raises(SettingsError, match="folder of a run"):
        vitrail.evaluate(vitrail.load_model(run))
    with pytest.raises(ModelError, match="cannot be asked to generate"):
        vitrail.generate(run, ["x"])
    with pytest.raises(ModelError, match="vit_s16"):
        vitrail.train("vit_s61", photos, tmp_path / "x")
    with pytest.raises(CheckpointError, match="holds no"):
        vitrail.evaluate(tmp_path, photos)
    assert not (tmp_path / "x").exists()


def test_everything_that_is_promised_is_there() -> None:
    assert {name for name in vitrail.__all__ if not hasattr(vitrail, name)} == set()
    assert {"train", "evaluate", "predict", "generate", "explain", "export", "optimize", "register_task",
            "register_model"} <= set(vitrail.__all__)
