"""The objective of classification as the loop meets it, and one short training with the real loader."""
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.tasks.made import PLAIN, Greys, linear, reader
from vitrail.core.errors import ModelError, SettingsError
from vitrail.data.dataset import Skipped
from vitrail.data.transforms import evaluation_transform
from vitrail.tasks.classification.data import Batch
from vitrail.tasks.classification.losses import cross_entropy, soft_targets
from vitrail.tasks.classification.mixing import apply, draw
from vitrail.tasks.classification.objective import ClassificationObjective
from vitrail.tasks.classification.settings import Distillation, LossSettings, Mixing
from vitrail.training.objective import Step, part

NAMES = tuple("abcd")
SHADES = [k % 4 for k in range(24)]
HARD = Distillation(kind="hard", alpha=0.5)
SOFT = Distillation(kind="soft", alpha=0.3, temperature=2.0)


def make(**changes: Any) -> ClassificationObjective:
    settings: dict[str, Any] = {
        "build": lambda: linear(4, labels=NAMES), "train": Greys(SHADES, SHADES, NAMES),
        "val": Greys([0, 1, 2, 3, 1], [0, 1, 2, 3, 0], NAMES), "training": evaluation_transform(PLAIN),
        "evaluation": evaluation_transform(PLAIN), "save": lambda model, folder: None,
        "loss": LossSettings(smoothing=0.1), "seed": 0, "batch": 8}
    return ClassificationObjective(**(settings | changes))


def batch(n: int = 8, seed: int = 0) -> Batch:
    g = torch.Generator().manual_seed(seed)
    return Batch(images=torch.randn(n, 3, 8, 8, generator=g), labels=torch.randint(4, (n,), generator=g),
                 indices=torch.randperm(24, generator=g)[:n])


def test_it_is_an_objective() -> None:
    task = make()
    assert task.headline == "top1" and task.larger_is_better


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_torchs(smoothing: float) -> None:
    task, b = make(loss=LossSettings(smoothing=smoothing)), batch()
    model = task.model()
    found = task.loss(model, b, 0)
    logits = model(b.images)
    torch.testing.assert_close(found["loss"], F.cross_entropy(logits, b.labels, label_smoothing=smoothing))
    assert set(found) == {"loss", "ce", "accuracy"} and torch.equal(found["ce"], found["loss"].detach())
    assert found["accuracy"] == (logits.argmax(-1) == b.labels).float().mean()
    assert found["loss"].requires_grad and not found["ce"].requires_grad and not found["accuracy"].requires_grad


@pytest.mark.parametrize("two", [False, True])
@pytest.mark.parametrize("settings", [HARD, SOFT])
def test_distillation_weighs_the_two_terms(two: bool, settings: Distillation) -> None:
    teacher = linear(4, labels=NAMES, seed=5)
    task = make(build=lambda: linear(4, labels=NAMES, two=two), teacher=teacher,
                loss=LossSettings(smoothing=0.1, distillation=settings))
    model, b = task.model(), batch()
    a, d = model.head.separate(model.backbone(b.images)) if two else (model(b.images),) * 2
    z = teacher(b.images).detach()
    ce, t = F.cross_entropy(a, b.labels, label_smoothing=0.1), settings.temperature
    term = F.cross_entropy(d, z.argmax(-1)) if settings is HARD else \
        F.kl_div((d / t).log_softmax(-1), (z / t).log_softmax(-1), reduction="sum", log_target=True) * t * t / d.numel()
    found = task.loss(model, b, 0)
    torch.testing.assert_close(found["loss"], (1 - settings.alpha) * ce + settings.alpha * term)
    torch.testing.assert_close(found["ce"], ce.detach())
    torch.testing.assert_close(found["distillation"], term.detach())
    found["loss"].backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    assert all(p.grad is None for p in teacher.parameters())


def test_a_teacher_of_no_weight_changes_no_bit() -> None:
    b = batch()
    deaf = make(teacher=linear(4, seed=5), loss=LossSettings(distillation=replace(SOFT, alpha=0.0)))
    alone = make()
    assert torch.equal(deaf.loss(deaf.model(), b, 0)["loss"], alone.loss(alone.model(), b, 0)["loss"])


def test_a_student_equal_to_its_teacher_learns_from_labels_alone() -> None:
    task, b = make(teacher=linear(4), loss=LossSettings(distillation=SOFT)), batch()
    found = task.loss(task.model(), b, 0)
    assert found["distillation"].abs() < 1e-6
    torch.testing.assert_close(found["loss"].detach(), (1 - SOFT.alpha) * found["ce"])


def test_mixing_follows_the_batches_own_epoch_and_samples() -> None:
    mixing = Mixing(mixup=0.8, cutmix=1.0)
    task = make(loss=LossSettings(smoothing=0.1, mixing=mixing), seed=9)
    model, b = task.model(), next(iter(task.batches(0, 1).epoch(1)))
    plan = draw(b.indices.tolist(), mixing=mixing, seed=9, epoch=1, size=(8, 8))
    images, targets = apply(b.images, soft_targets(b.labels, 4, 0.1), plan)
    expected = cross_entropy(model(images), targets).mean()
    torch.testing.assert_close(task.loss(model, b, 0)["loss"], expected)
    halves = [task.loss(model, part(b, i, 2), 0)["loss"] for i in range(2)]
    torch.testing.assert_close(torch.stack(halves).mean(), expected)


def test_shares_of_processes_make_up_the_batch_of_one() -> None:
    task = make(loss=LossSettings(mixing=Mixing(mixup=0.8)))
    model = task.model()
    whole = [task.loss(model, b, 0)["loss"].item() for b in task.batches(0, 1).epoch(3)]
    shares = [[task.loss(model, b, 0)["loss"].item() for b in task.batches(rank, 4).epoch(3)] for rank in range(4)]
    assert [sum(s) / 4 for s in zip(*shares, strict=True)] == pytest.approx(whole, rel=1e-5) and len(whole) == 3


@pytest.mark.parametrize("batch_size, of, accumulate, mixing", [
    (8, 3, 1, Mixing()), (8, 1, 3, Mixing()), (8, 4, 2, Mixing(mixup=1.0)), (7, 1, 1, Mixing(cutmix=1.0)),
])
def test_batches_that_cannot_be_shared_are_refused_before_a_step(batch_size: int, of: int, accumulate: int,
                                                                 mixing: Mixing) -> None:
    task = make(batch=batch_size, accumulate=accumulate, loss=LossSettings(mixing=mixing))
    with pytest.raises(SettingsError, match="multiple of"):
        task.batches(0, of)


@pytest.mark.parametrize("changes, said", [
    ({"batch": 25}, "24 training samples"), ({"batch": 0}, "batch of 0"),
    ({"loss": LossSettings(distillation=HARD)}, "needs a teacher"),
    ({"teacher": linear(4)}, "distillation is none"),
])
def test_parts_that_do_not_fit_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        make(**changes)


def test_models_that_do_not_fit_are_refused() -> None:
    with pytest.raises(SettingsError, match="not the classes of 'greys'"):
        make(build=lambda: linear(4, labels="abdc")).model()
    distilled = {"loss": LossSettings(distillation=HARD)}
    with pytest.raises(SettingsError, match="5 classes apart and the student 4"):
        make(teacher=linear(5), **distilled).model()
    same = linear(4, labels=NAMES)
    with pytest.raises(SettingsError, match="its own teacher"):
        make(teacher=same, build=lambda: same, **distilled).model()
    with pytest.raises(ModelError, match="handed a Linear"):
        make().loss(nn.Linear(2, 2), batch(), 0)


def test_the_whole_step_compiles() -> None:
    other = replace(PLAIN, size=(6, 6), mean=(0.1, 0.2, 0.3))
    objective = LossSettings(mixing=Mixing(mixup=0.8, cutmix=1.0), distillation=SOFT)
    task = make(build=lambda: linear(4, labels=NAMES, two=True), loss=objective,
                teacher=linear(4, side=6, labels=NAMES[::-1], preprocessing=other))
    model, b = task.model(), next(iter(task.batches(0, 1).epoch(0)))
    plain = task.loss(model, b, 0)
    compiled = torch.compile(Step(model, task), backend="eager", fullgraph=True)(b, 0)      # as the loop compiles it
    assert compiled.keys() == plain.keys()
    assert [v.item() for v in compiled.values()] == pytest.approx([v.item() for v in plain.values()], rel=1e-5)


def test_evaluation_scores_the_held_out_side() -> None:
    found = make().evaluate(reader(NAMES), torch.device("cpu"), 0, 1)
    assert found["top1"] == 0.8 and found["samples"] == 5 and found["unread"] == 0
    assert set(found) == {"top1", "balanced", "f1", "ece", "brier", "nll", "samples", "unread"}
    assert all(type(v) is float for v in found.values())
    torn = make(val=Greys([0, 1, 2], [0, 1, 2], NAMES, broken=(1,)), on_error="skip", accumulate=4)
    assert torn.evaluate(reader(NAMES), torch.device("cpu"), 0, 1)["unread"] == 1


def test_it_describes_itself_in_json() -> None:
    train = Greys(SHADES, SHADES, NAMES, skipped=(Skipped("x.png", "torn"),))
    task = make(train=train, record={"seed": 3}, teacher=linear(4, seed=1), loss=LossSettings(distillation=SOFT))
    found = json.loads(json.dumps(task.describe(), allow_nan=False))
    assert found["classes"] == list(NAMES) and found["record"] == {"seed": 3}
    assert found["data"]["train"]["skipped"] == [{"key": "x.png", "why": "torn"}]
    assert found["data"]["train"]["samples"] == 24 and found["objective"]["distillation"]["kind"] == "soft"
    assert found["teacher"]["model"] == "linear"
    other = make(val=Greys([1], [1], NAMES)).describe()
    assert other["fingerprint"] != make().describe()["fingerprint"] == make().describe()["fingerprint"]


def test_samples_have_names_and_models_are_saved(tmp_path: Path) -> None:
    saved: list[tuple[nn.Module, Path]] = []
    task = make(save=lambda model, folder: saved.append((model, folder)))
    b = batch()
    assert task.names(b) == [f"image-{i}" for i in b.indices.tolist()]
    model = task.model()
    task.save(model, tmp_path)
    assert saved == [(model, tmp_path)]


def test_a_student_learns_from_its_teacher() -> None:
    """Every part at once: real batches, both kinds of mixing, a soft teacher, a distilled head."""
    sharp = reader(NAMES, sharp=1.0)
    objective = LossSettings(mixing=Mixing(mixup=0.2, cutmix=0.2, probability=0.5), distillation=SOFT)
    task = make(build=lambda: linear(4, labels=NAMES, two=True), teacher=sharp, loss=objective)
    model = task.model().train()
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    losses = []
    for epoch in range(60):
        for b in task.batches(0, 1).epoch(epoch):
            found = task.loss(model, b, 0)
            optimizer.zero_grad()
            found["loss"].backward()
            optimizer.step()
            losses.append(found["loss"].item())
    assert task.evaluate(model, torch.device("cpu"), 0, 1)["top1"] == 0.8, "all but the wrong label"
    assert sum(losses[-6:]) < 0.8 * sum(losses[:6])
