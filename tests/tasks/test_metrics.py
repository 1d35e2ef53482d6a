import warnings

import numpy as np
import pytest
import torch
from sklearn import metrics as reference

from vitrail.core.errors import DataError, ModelError
from vitrail.core.torchvision_guard import import_torchvision
from vitrail.tasks.classification import calibration
from vitrail.tasks.classification.metrics import Outcomes, intervals, per_class, ranked, summary


def sample(n: int = 400, classes: int = 7, seed: int = 0, sharp: float = 1.5) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, classes, generator=g)
    return logits * sharp, torch.multinomial(logits.softmax(-1), 1, generator=g)[:, 0]


def outcomes(logits: torch.Tensor, labels: torch.Tensor) -> Outcomes:
    return Outcomes.of(logits, labels, torch.arange(len(labels)))


@pytest.mark.parametrize("n, classes", [(400, 7), (30, 6), (1, 9), (50, 40)])
def test_scores_equal_scikit_learn(n: int, classes: int) -> None:
    logits, labels = sample(n, classes)
    seen, found = outcomes(logits, labels), summary(outcomes(logits, labels))
    p, every = logits.double().softmax(-1).numpy(), range(classes)
    predicted = p.argmax(-1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert found["top1"] == pytest.approx(reference.accuracy_score(labels, predicted))
        assert found["top5"] == pytest.approx(reference.top_k_accuracy_score(labels, p, k=5, labels=every))
        assert found["balanced"] == pytest.approx(reference.balanced_accuracy_score(labels, predicted))
        assert found["f1"] == pytest.approx(reference.f1_score(labels, predicted, average="macro"))
        assert found["nll"] == pytest.approx(reference.log_loss(labels, p, labels=every))
    assert found["brier"] == pytest.approx(((p - np.eye(classes)[labels]) ** 2).sum(-1).mean())
    assert np.array_equal(seen.confusion, reference.confusion_matrix(labels, predicted, labels=every))


def test_scores_equal_torchmetrics() -> None:
    import_torchvision()
    from torchmetrics.functional import classification as theirs
    logits, labels = sample(500, 8)
    p, found, seen = logits.softmax(-1), summary(outcomes(logits, labels)), outcomes(logits, labels)
    for k in (1, 5):
        expected = theirs.multiclass_accuracy(p, labels, 8, average="micro", top_k=k).item()
        assert found[f"top{k}"] == pytest.approx(expected, abs=1e-6)
    expected = theirs.multiclass_calibration_error(p, labels, 8, n_bins=calibration.BINS, norm="l1").item()
    assert found["ece"] == pytest.approx(expected, abs=1e-6)
    rows = per_class(seen.confusion, [str(k) for k in range(8)])
    for name, measure in (("precision", theirs.multiclass_precision), ("recall", theirs.multiclass_recall)):
        ours = [getattr(r, name).value for r in rows]
        assert ours == pytest.approx(measure(p, labels, 8, average="none").tolist(), abs=1e-6)
    assert [r.f1 for r in rows] == pytest.approx(theirs.multiclass_f1_score(p, labels, 8, average="none").tolist(),
                                                 abs=1e-6)
    assert torch.equal(theirs.multiclass_confusion_matrix(p, labels, 8), torch.from_numpy(seen.confusion))


def test_shares_merge_to_the_whole_in_any_order() -> None:
    logits, labels = sample(101)
    whole = outcomes(logits, labels)
    shares = [Outcomes.of(logits[i::3], labels[i::3], torch.arange(101)[i::3]) for i in (2, 0, 1)]
    joined = Outcomes.join([*shares, Outcomes.empty(7)])
    assert intervals(joined, resamples=50) == intervals(whole, resamples=50)
    assert np.array_equal(joined.top, whole.top) and np.array_equal(joined.index, np.arange(101))


def test_equal_logits_are_ordered_by_class() -> None:
    seen = outcomes(torch.zeros(3, 7), torch.tensor([0, 4, 6]))
    assert seen.rank.tolist() == [0, 4, 6] and seen.predicted.tolist() == [0, 0, 0]
    assert seen.top.tolist() == [[0, 1, 2, 3, 4]] * 3
    assert seen.top_probability == pytest.approx(np.full((3, 5), 1 / 7))


def test_all_right_and_sure() -> None:
    labels = torch.arange(4)
    found = intervals(outcomes(torch.eye(4) * 1000, labels))
    assert found["top1"].value == 1 and found["top1"].high == 1 and 0.4 < found["top1"].low < 0.6
    assert (found["f1"].low, found["f1"].high) == (1, 1) and found["ece"].value == found["brier"].value == 0
    assert "top5" not in found, "of four classes, five hold all"


def test_all_wrong_and_sure() -> None:
    found = summary(outcomes(torch.eye(3).roll(1, 0) * 1000, torch.arange(3)))
    assert (found["top1"], found["f1"], found["balanced"]) == (0, 0, 0)
    assert [found[name] for name in ("ece", "brier", "nll")] == pytest.approx([1, 2, 1000])


def test_a_class_that_does_not_occur() -> None:
    seen = outcomes(torch.eye(4)[[0, 0, 1, 2]], torch.tensor([0, 0, 1, 1]))
    rows = per_class(seen.confusion, "abcd")
    assert [r.support for r in rows] == [2, 2, 0, 0]
    assert rows[2].recall is None and rows[2].precision is not None and rows[2].precision.value == 0
    assert rows[2].f1 == 0, "answered and never right"
    assert rows[3].recall is rows[3].precision is rows[3].f1 is None
    found = summary(seen)
    assert found["balanced"] == pytest.approx((1 + 0.5) / 2)
    assert found["f1"] == pytest.approx((1 + 2 / 3 + 0) / 3)


def test_one_class_alone() -> None:
    found = intervals(outcomes(torch.randn(5, 1), torch.zeros(5, dtype=torch.long)), resamples=20)
    assert found["top1"].value == found["f1"].value == 1 and found["nll"].value == 0


def test_nothing_to_score_is_an_error() -> None:
    for score in (summary, intervals):
        with pytest.raises(DataError, match="no sample"):
            score(Outcomes.empty(3))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_answers_that_are_not_numbers_are_refused(bad: float) -> None:
    with pytest.raises(ModelError, match="not finite"):
        ranked(torch.tensor([[0.0, bad]]))


@pytest.mark.parametrize("label", [-1, 3])
def test_labels_that_are_no_class_are_refused(label: int) -> None:
    with pytest.raises(DataError, match=f"label {label} is none of the model's 3"):
        outcomes(torch.zeros(2, 3), torch.tensor([0, label]))


def test_every_confidence_has_a_bin() -> None:
    edges = np.arange(calibration.BINS + 1) / calibration.BINS
    where = calibration.bins(edges)
    assert where[0] == 0 and where[-1] == calibration.BINS - 1 and (np.diff(where) >= 0).all()
    assert np.array_equal(calibration.bins(edges[:-1] + 1e-9), np.arange(calibration.BINS))


def test_the_reliability_diagram_adds_up_to_the_error() -> None:
    seen = outcomes(*sample(300))
    rows = calibration.reliability(seen.confidence, seen.rank == 0)
    assert sum(r.samples for r in rows) == 300 and rows[0].confidence is None
    gap = sum(r.samples * abs(r.accuracy - r.confidence) for r in rows if r.samples) / 300   # type: ignore[operator]
    assert gap == pytest.approx(summary(seen)["ece"])
