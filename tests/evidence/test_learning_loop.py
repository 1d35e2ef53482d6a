"""What the claims about learning are taught with: pictures that share no pixel, a loop that learns and repeats."""
from functools import partial

import pytest
import torch
from torch import nn

from vitrail.evidence.learning import data as learn_data
from vitrail.evidence.learning.loop import Budget, ask, measure, paired, rate, score, shifted, teach
from vitrail.evidence.learning.pictures import HELD_OUT, TEXTURES, Pictures, digits, textures


def made(seed: int) -> tuple[nn.Module, Pictures]:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 10)), digits(8)


def test_digits_are_split_without_overlap() -> None:
    found = digits(8)
    assert len(found.labels) == 1797 - HELD_OUT and len(found.held_labels) == HELD_OUT and found.classes == 10
    seen = {image.numpy().tobytes() for image in found.images[:, 0]}
    assert sum(image.numpy().tobytes() in seen for image in found.held_out[:, 0]) == 0


def test_a_texture_is_told_by_nothing_but_its_texture() -> None:
    found = textures(24, train=20, held=10)
    assert found.images.shape == (20 * len(TEXTURES), 3, 24, 24) and found.held_out.shape[0] == 10 * len(TEXTURES)
    for images in (found.images, found.held_out):
        assert images.mean((1, 2, 3)).abs().max() < 1e-5 and (images.std((1, 2, 3)) - 1).abs().max() < 0.05
    assert torch.equal(found.images, textures(24, train=20, held=10).images)


@pytest.mark.parametrize("count", [10, 100, 250])
def test_few_images_are_of_all_classes(count: int) -> None:
    few = digits(8).few(count, seed=1)
    per_class = few.labels.bincount(minlength=10)
    assert len(few.labels) == count and per_class.max() - per_class.min() <= 1
    assert not torch.equal(few.images, digits(8).few(count, seed=2).images)


def test_the_loop_learns_and_repeats_itself() -> None:
    budget = Budget(steps=150, lr=1e-2)
    (model, found), (again, _) = made(0), made(0)
    assert score(model.eval(), found) < 0.4
    assert score(teach(model, found, budget, seed=3), found) > 0.7
    teach(again, found, budget, seed=3)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_plain_gradient_descent_and_a_loss_of_ones_own() -> None:
    model, found = made(0)
    calls: list[int] = []

    def loss(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        calls.append(len(labels))
        return nn.functional.cross_entropy(model(images), labels)
    teach(model, found, Budget(steps=40, lr=0.05, optimizer="sgd"), seed=0, loss=loss)
    assert calls == [32] * 40 and score(model, found) > 0.5


def test_the_rate_warms_up_and_goes_down() -> None:
    rates = [rate(i / 100, 0.1) for i in range(100)]
    assert rates[0] < 0.02 and max(rates) == pytest.approx(1, abs=0.01) and rates.index(max(rates)) in (10, 11)
    assert rates[-1] < 0.01 and rates[11:] == sorted(rates[11:], reverse=True)


def test_a_shift_moves_each_image_by_a_24th_at_most() -> None:
    rows, columns = torch.meshgrid(torch.arange(48.0), torch.arange(48.0), indexing="ij")
    images = torch.stack([rows, columns, rows + 100 * columns])[None].expand(64, -1, -1, -1)
    moved = shifted(images, torch.Generator().manual_seed(0))
    down, right = (moved[:, axis, 24, 24] - 24 for axis in (0, 1))
    assert {int(d) for d in down} == {int(r) for r in right} == {-2, -1, 0, 1, 2}, "each image goes its own way"
    y, x = (rows + down[:, None, None]).clamp(0, 47), (columns + right[:, None, None]).clamp(0, 47)
    assert torch.equal(moved, torch.stack([y, x, y + 100 * x], 1))


def _six(n: int) -> int:
    return 6 * n


def test_jobs_are_asked_in_order_with_one_thread_each() -> None:
    before = torch.get_num_threads()
    assert ask([partial(_six, n) for n in range(3)], smoke=True) == [0, 6, 12]
    assert ask([torch.get_num_threads], smoke=True) == [1] and torch.get_num_threads() == before


def test_a_lead_that_does_not_shrink_is_no_proof() -> None:
    steady = {"a": {100: [0.6, 0.7, 0.65], 1000: [0.8, 0.9, 0.85]},
              "b": {100: [0.5, 0.61, 0.55], 1000: [0.7, 0.79, 0.76]}}
    closing = {"a": steady["a"], "b": {100: [0.3, 0.4, 0.36], 1000: [0.79, 0.9, 0.84]}}
    assert not learn_data.gaps(steady, "a", "b")[0] and learn_data.gaps(closing, "a", "b")[0]
    assert not learn_data.gaps(closing, "b", "a")[0]
    assert paired([0.5, 0.6], [0.4, 0.5]).value == pytest.approx(0.1)


def test_a_smoke_run_measures_every_arm_of_every_seed() -> None:
    seen: list[tuple[str, int, int]] = []

    def arm(pictures: Pictures, seed: int) -> dict[str, float]:
        seen.append((pictures.name, len(pictures.labels), seed))
        return {"seed": float(seed), "digits": float(pictures.name == "digits")}
    found = measure({"one": arm, "other": arm}, {"digits": 200, "textures": 50}, smoke=True)
    assert found == {name: {"seed": [0.0, 1.0], "digits": [0.5, 0.5]} for name in ("one", "other")}
    assert seen == [(name, min(count, 100), seed) for _ in range(2) for seed in range(2)
                    for name, count in (("digits", 200), ("textures", 50))]
