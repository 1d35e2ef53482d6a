import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from tests.tasks.made import PLAIN, Greys, reader
from vitrail.core.errors import DataError, ModelError, SettingsError
from vitrail.core.config import Preprocessing
from vitrail.core.task import Options
from vitrail.data.dataset import Skipped
from vitrail.tasks.classification.evaluate import Evaluation, answering, evaluate

NAMES = tuple("abcdefg")
SHOWN, LABELS = [0, 1, 2, 3, 4, 5, 6, 0, 3, 2], [0, 1, 2, 3, 4, 5, 6, 1, 3, 5]        # wrong at 7 and 9


def judged(source: Greys, sharp: float = 4.0, **settings: object) -> Evaluation:
    processes = {"of": settings.pop("of")} if "of" in settings else {}
    return evaluate(reader(NAMES, sharp=sharp), source, Options(**settings), resamples=50, **processes)  # type: ignore


@pytest.mark.parametrize("batch", [1, 3, 10, 64])
def test_every_sample_is_judged_once(batch: int) -> None:
    found = judged(Greys(SHOWN, LABELS, NAMES), batch=batch)
    assert found.samples == 10 and found.scores["top1"].value == 0.8
    assert [p.index for p in found.predictions] == list(range(10))
    assert [NAMES.index(p.predicted) for p in found.predictions] == SHOWN
    assert [NAMES.index(p.label) for p in found.predictions] == LABELS
    assert [p.right for p in found.predictions] == [a == b for a, b in zip(SHOWN, LABELS, strict=True)]
    assert found.confusion[1, 0] == 1 and found.confusion[5, 2] == 1 and found.confusion.sum() == 10
    assert found.predictions[0].top[0] == ("a", found.predictions[0].probability) and len(found.predictions[0].top) == 5
    assert found.predictions[3].key == "image-3" and found.excluded == ()


def test_the_batch_size_changes_no_number() -> None:
    source = Greys(SHOWN, LABELS, NAMES)
    assert judged(source, batch=3).to_json() == judged(source, batch=10).to_json()


def test_worker_processes_change_no_number() -> None:
    source = Greys(SHOWN, LABELS, NAMES, broken=(4,))
    assert judged(source, workers=2, batch=3, on_error="skip").to_json() == \
        judged(source, batch=3, on_error="skip").to_json()


def test_classes_in_another_order_are_matched_by_name() -> None:
    turned = Greys(SHOWN, [6 - k for k in LABELS], NAMES[::-1])
    plain = judged(Greys(SHOWN, LABELS, NAMES))
    assert judged(turned).to_json() == plain.to_json()


@pytest.mark.parametrize("classes, said", [
    (("a", "b"), "the model alone has 'c', 'd'"),
    ((*NAMES, "h"), "the data alone have 'h'"),
    ((*NAMES[:6], "z"), "the data alone have 'z'; the model alone has 'g'"),
    ((*NAMES, "a"), "a name is used twice"),
])
def test_other_classes_are_refused_by_name(classes: tuple[str, ...], said: str) -> None:
    with pytest.raises(DataError, match=said):
        judged(Greys([0], [0], classes))


def test_an_unreadable_image_stops_or_is_listed() -> None:
    source = Greys(SHOWN, LABELS, NAMES, broken=(0, 7), skipped=(Skipped("early", "not an image"),))
    with pytest.raises(DataError, match="image-0: it is torn"):
        judged(source)
    found = judged(source, on_error="skip", batch=3)
    assert [(x.key, x.why) for x in found.excluded] == [("early", "not an image"), ("image-0", "image-0: it is torn"),
                                                        ("image-7", "image-7: it is torn")]
    assert found.samples == 8 and found.scores["top1"].value == 7 / 8
    assert 0 not in [p.index for p in found.predictions]


def test_nothing_left_to_judge_is_an_error() -> None:
    with pytest.raises(DataError, match="no sample"):
        judged(Greys([], [], NAMES))
    with pytest.raises(DataError, match="no sample"):
        judged(Greys([0, 1], [0, 1], NAMES, broken=(0, 1)), on_error="skip")


def test_the_worst_mistakes_come_first() -> None:
    source = Greys([1, 2, 3, 4], [1, 3, 0, 5], NAMES)
    model = reader(NAMES, sharp=1.0)
    found = evaluate(model, source, resamples=20)
    worst = found.worst(10)
    assert {p.index for p in worst} == {1, 2, 3}
    assert [p.probability for p in worst] == sorted((p.probability for p in worst), reverse=True)
    assert found.worst(1) == worst[:1] and found.worst(0) == found.worst(-1) == []


def test_it_becomes_json_without_nan() -> None:
    found = judged(Greys([0, 1], [0, 1], NAMES))            # five classes do not occur
    text = json.dumps(found.to_json(), allow_nan=False)
    back = json.loads(text)
    assert back["scores"]["top1"]["value"] == 1 and back["scores"]["top1"]["low"] < 1
    assert back["per_class"][6] == {"name": "g", "support": 0, "precision": None, "recall": None, "f1": None}
    assert back["labels"] == list(NAMES) and len(back["confusion"]) == 7 and len(back["reliability"]) == 15
    assert back["predictions"][1]["key"] == "image-1" and back["predictions"][1]["top"][0][0] == "b"
    assert back["model"] == "shade" and back["source"] == "greys"


def test_modes_come_back_part_by_part() -> None:
    model = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(2)).train()
    model[1].eval()
    with answering(model):
        assert not model[0].training and not torch.is_grad_enabled()
    assert model.training and model[0].training and not model[1].training
    with pytest.raises(RuntimeError), answering(model):
        raise RuntimeError
    assert model[0].training


def test_the_models_own_preprocessing_is_used() -> None:
    halved = replace(PLAIN, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    model = reader(NAMES, preprocessing=Preprocessing(**vars(halved)))
    with torch.no_grad():
        model.head.centres.mul_(2).sub_(1)
    assert evaluate(model, Greys(SHOWN, LABELS, NAMES), resamples=20).scores["top1"].value == 0.8


def test_a_model_that_diverged_is_refused() -> None:
    model = reader(NAMES)
    with torch.no_grad():
        model.head.centres[3] = float("nan")
    with pytest.raises(ModelError, match="not finite"):
        evaluate(model, Greys(SHOWN, LABELS, NAMES))


@pytest.mark.parametrize("settings", [{"on_error": "ignore"}, {"batch": 0}, {"workers": -1}, {"of": 2},
                                      {"on_error": "Skip"}])
def test_settings_that_cannot_be(settings: dict[str, object]) -> None:
    with pytest.raises(SettingsError):
        judged(Greys(SHOWN, LABELS, NAMES), **settings)


def test_a_label_outside_its_classes_is_named() -> None:
    with pytest.raises(DataError, match="label 7"):
        judged(Greys([0, 1], [0, 7], NAMES))
