import numpy as np
import pytest
import torch
from scipy import stats

from tests.tasks.test_metrics import outcomes, sample
from vitrail.core.errors import DataError
from vitrail.measure import intervals as module
from vitrail.core.score import Score
from vitrail.measure.intervals import bootstrap, percentile, reverse_percentile, student_t, wilson
from vitrail.tasks.classification.metrics import intervals, summary


@pytest.mark.parametrize("successes, total", [(0, 1), (1, 1), (0, 50), (50, 50), (7, 10), (1, 1000), (354, 360)])
@pytest.mark.parametrize("level", [0.9, 0.95, 0.99])
def test_wilson_equals_scipy(successes: int, total: int, level: float) -> None:
    theirs = stats.binomtest(successes, total).proportion_ci(level, method="wilson")
    ours = wilson(successes, total, level=level)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)
    assert 0 <= ours.low <= ours.value <= ours.high <= 1


def test_wilson_is_exact_at_its_ends() -> None:
    assert wilson(0, 3).low == 0.0 and wilson(3, 3).high == 1.0


@pytest.mark.parametrize("successes, total", [(0, 0), (2, 1), (-1, 5)])
def test_what_is_no_proportion_is_refused(successes: int, total: int) -> None:
    with pytest.raises(DataError):
        wilson(successes, total)


@pytest.mark.parametrize("share", [0.02, 0.5, 0.97])
def test_wilson_covers(share: float) -> None:
    drawn = np.random.default_rng(0).binomial(200, share, 2000)
    covered = np.mean([(s := wilson(int(k), 200)).low <= share <= s.high for k in drawn])
    assert 0.92 < covered < 0.98


def test_the_bootstrap_of_a_mean_equals_scipy() -> None:
    x = np.random.default_rng(1).exponential(size=80)
    drawn = bootstrap(lambda rows: x[rows].mean(1, keepdims=True), len(x), seed=0, resamples=4000)[:, 0]
    ours = percentile(float(x.mean()), drawn)
    theirs = stats.bootstrap((x,), np.mean, n_resamples=4000, method="percentile", rng=0).confidence_interval
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.02)


def test_the_bootstrap_does_not_depend_on_its_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = outcomes(*sample(53))
    whole = intervals(seen, resamples=40)
    monkeypatch.setattr(module, "CHUNK", 53 * 7)
    assert intervals(seen, resamples=40) == whole
    monkeypatch.setattr(module, "CHUNK", 1)
    assert intervals(seen, resamples=40) == whole
    assert intervals(seen, resamples=40, seed=1) != whole


def test_intervals_hold_their_value() -> None:
    drawn = np.linspace(3, 4, 101)
    assert percentile(2.0, drawn) == Score(2.0, 2.0, pytest.approx(3.975))
    assert reverse_percentile(1.0, drawn) == Score(1.0, 0.0, 1.0)
    for seed in range(5):
        for score in intervals(outcomes(*sample(20, seed=seed)), resamples=30).values():
            assert score.low <= score.value <= score.high


@pytest.mark.parametrize("sharp", [1.0, 2.5])
def test_intervals_cover_the_truth(sharp: float) -> None:
    """Of 200 sets of 300 samples, 95 % should cover; the bootstrap of small samples is known to fall a little short."""
    truth = summary(outcomes(*sample(200_000, 4, seed=1, sharp=sharp)))
    hits = dict.fromkeys(truth, 0)
    for seed in range(200):
        found = intervals(outcomes(*sample(300, 4, seed=100 + seed, sharp=sharp)), resamples=200)
        for name in hits:
            hits[name] += found[name].low <= truth[name] <= found[name].high
    assert set(hits) == {"top1", "balanced", "f1", "ece", "brier", "nll"}
    assert all(177 <= h <= 200 for h in hits.values()), hits


def test_no_sample_no_bootstrap() -> None:
    with pytest.raises(DataError):
        bootstrap(lambda rows: np.zeros((len(rows), 1)), 0, seed=0)


def test_a_perfect_model_is_not_called_miscalibrated() -> None:
    labels = torch.arange(4).repeat(10)
    found = intervals(outcomes(torch.eye(4)[labels] * 50, labels), resamples=50)
    assert found["ece"].low == 0 and found["ece"].high < 1e-6


def test_students_interval_is_that_of_the_textbook() -> None:
    """0, 1, 2: mean 1, deviation 1, and t = 4.3027 for two degrees of freedom."""
    found = student_t([0.0, 1.0, 2.0])
    assert found.value == 1 and found.high - 1 == pytest.approx(4.30265 / 3**0.5, rel=1e-5)
    with pytest.raises(DataError, match="two seeds"):
        student_t([1.0])
