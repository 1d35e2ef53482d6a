"""Recorded plans answer like the plans, call after call, and keep apart what is needed at one time."""
import copy
import random
import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import vitrail
from tests.contracts.small import build as small
from tests.deploy.test_native import needed
from tests.deploy.test_optimize import noise, plan_of
from vitrail.core.errors import ExportError
from vitrail.deploy.cpu import compile as compiler
from vitrail.deploy.cpu.native import linear, norm
from vitrail.deploy.cpu import int8
from vitrail.deploy.cpu.graph import calls
from vitrail.deploy.cpu.program import Program, settle
from vitrail.deploy.cpu.record import Base

WEIGHT = linear.packed(noise(24, 24, seed=9))


def rows(x: Tensor) -> Tensor:
    return linear.linear(x, WEIGHT, 24, None, "gelu")


def between(image: Tensor) -> Tensor:
    """Native calls, views, calls of torch's that answer anew, and one that changes what it is given."""
    x = image.permute(0, 2, 3, 1).flatten(1, 2).unflatten(-1, (1, 24))
    y = norm.norm(rows(x), None, None, 1e-5)
    parts = torch.cat([y[:, 3:], y[:, :3] * 2], 1).split((4, x.shape[1] - 4), 1)
    z = torch.empty_like(y)
    z[:, :4] = rows(parts[0].transpose(0, 1)).transpose(0, 1)
    z[:, 4:] = parts[1]
    return rows(z).sum((1, 2)) + x.mean((1, 2))


@needed
def test_a_program_answers_like_its_plan() -> None:
    program = Program(between, noise(2, 24, 3, 5))
    assert program.natives == 4
    kept = []
    for seed in range(4):
        image = noise(2, 24, 3, 5, seed=seed)
        before = image.clone()
        kept.append((program(image), between(image)))
        assert torch.equal(image, before)
    for found, expected in kept:                        # a call leaves the answers of those before
        assert torch.equal(found, expected)
    wide = noise(2, 24, 3, 10)[..., ::2]
    assert torch.equal(program(wide), between(wide.contiguous()))
    part = noise(5, 24, 3, 5)[2:4]
    assert torch.equal(program(part), between(part))


@needed
def test_times_are_told_by_call() -> None:
    times: dict[str, float] = {}
    image = noise(2, 24, 3, 5)
    program = Program(between, image)
    assert torch.equal(program(image, times), between(image))
    assert {"linear_float32", "norm_float32", "aten.cat.default"} <= set(times) and min(times.values()) > 0


@needed
def test_an_answer_that_is_native_or_the_image() -> None:
    image = noise(2, 3, 4, 24)
    for plan in (rows, lambda x: rows(x)[:, 1:, ::2], lambda x: x.flatten(1), lambda x: rows(x).relu()):
        assert torch.equal(Program(plan, image)(image), plan(image))


@needed
def test_what_depends_on_numbers_or_changes_weights_is_not_recorded() -> None:
    counted = torch.zeros(1)

    def counts(x: Tensor) -> Tensor:
        return rows(x) + counted.add_(1)

    def depends(x: Tensor) -> Tensor:
        return rows(x) if float(x.sum()) > 0 else x
    for plan in (counts, depends):
        with pytest.raises(ExportError):
            Program(plan, noise(1, 3, 4, 24))


@needed
def test_other_images_are_refused_and_autocast_changes_nothing() -> None:
    image = noise(2, 24, 3, 5)
    program = Program(between, image)
    for other in (image[:1], image.double(), image[..., 1:], image.to("meta")):
        with pytest.raises(ExportError, match="this plan is for images"):
            program(other)
    expected = between(image)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(program(image), expected) and torch.equal(Program(between, image)(image), expected)


@needed
def test_a_profile_tells_the_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    model, image = vitrail.optimize(small("swin_t"), noise(2, 3, 64, 64)), noise(2, 3, 64, 64)
    assert {"linear_float32", "attention_float32", "norm_float32"} <= set(model.profile(image, 2))
    monkeypatch.setattr(compiler, "recorded", lambda plan, *_: plan)
    with pytest.raises(ExportError, match="native kernels are"):
        model.profile(noise(1, 3, 64, 64))
    monkeypatch.setattr(compiler, "microbatch", lambda *_: 2)
    with pytest.raises(ExportError, match="are taken in parts: give 2"):
        model.profile(noise(4, 3, 64, 64))


@needed
def test_sums_that_onednn_writes_where_a_summand_was(monkeypatch: pytest.MonkeyPatch) -> None:
    if not int8.available():
        pytest.skip("this machine has no products in int8")
    monkeypatch.setattr(linear, "fits", lambda *_: False)
    model = vitrail.optimize(small("pvt_v2_b0"), noise(2, 3, 64, 64), precision="int8")
    program = next(iter(model._plans.values()))
    assert isinstance(program, Program) and "sum" in [node.args[13] for node in calls(
        plan_of(model).graph, torch.ops.onednn.qlinear_pointwise.binary)]
    for seed in range(3):
        image = noise(2, 3, 64, 64, seed=seed)
        assert torch.equal(program(image), program.plan(image))


@needed
def test_threads_take_turns_and_copies_are_their_own() -> None:
    model = vitrail.optimize(small("deit_ti16"), noise(2, 3, 64, 64))
    assert model.report.rewritten["native calls without Python"] > 5
    images = [noise(2, 3, 64, 64, seed=seed) for seed in range(6)]
    expected = [model(image) for image in images]
    wrong: list[int] = []

    def work(which: Callable[[Tensor], Tensor], at: int) -> None:
        for i in list(range(at, 6)) * 5:
            if not torch.equal(which(images[i]), expected[i]):
                wrong.append(i)
    other = copy.deepcopy(model)
    threads = [threading.Thread(target=work, args=(which, at)) for which in (model, other) for at in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_what_is_needed_at_one_time_lies_apart() -> None:
    drawn = random.Random(0)
    for count in (1, 2, 5, 40, 200):
        bases = []
        for _ in range(count):
            first = drawn.randrange(100)
            bases.append(Base(0, drawn.randrange(1, 5000), first, first + drawn.randrange(20), drawn.random() < 0.9))
        size = settle(bases)
        inside = [base for base in bases if base.inside]
        for i, one in enumerate(inside):
            assert one.at % 64 == 0 and one.at + one.bytes <= size
            for other in inside[:i]:
                if one.first <= other.last and other.first <= one.last:
                    assert one.at + one.bytes <= other.at or other.at + other.bytes <= one.at
        most = max((sum(b.bytes for b in inside if b.first <= t <= b.last) for t in range(120)), default=0)
        assert size <= 1.6 * most + 64 * count, "places are used again"
