"""What is true of Hamburger only: what its decompositions find, its one-step gradient, its steps, its fixed start."""
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.attention.proof import draw
from vitrail.attention.hamburger import (Hamburger, HamburgerCD, HamburgerNMF, HamburgerVQ, means, nearest, updated)
from vitrail.measure.memory import peak_bytes

DOUBLE = torch.float64
FORMS = (HamburgerNMF, HamburgerVQ, HamburgerCD)


def ham(build: Callable[..., Hamburger], *, rank: int = 3, steps: int = 7) -> Hamburger:
    return build(8, 1, rank=rank, eval_steps=steps).double().eval()


@pytest.mark.parametrize("seed", range(3))
def test_the_error_of_nmf_never_grows(seed: int) -> None:
    x = draw(2, 1, 30, 8, seed=seed, dtype=DOUBLE).relu()
    bases = ham(HamburgerNMF).bases.expand(2, 1, 8, 3)
    coefficients, errors = (x @ bases).softmax(-1), []
    for _ in range(40):
        coefficients = updated(coefficients, x, bases)
        errors.append((x - coefficients @ bases.mT).square().sum((1, 2, 3)))
        bases = updated(bases, x.mT, coefficients)
        errors.append((x - coefficients @ bases.mT).square().sum((1, 2, 3)))
        assert (coefficients >= 0).all() and (bases >= 0).all()
    falls = torch.stack(errors).diff(dim=0)
    assert (falls <= 1e-5 * errors[0]).all() and (errors[-1] < 0.9 * errors[0]).all()       # of the ε in each ratio


def test_more_steps_are_nearer_and_the_answer_has_the_rank() -> None:
    x = draw(1, 1, 30, 8, dtype=DOUBLE)
    for build in FORMS:
        y = ham(build).ham(x, ham(build).bases)
        assert torch.linalg.matrix_rank(y[0, 0]) <= 3
    errors = [float((x.relu() - ham(HamburgerNMF, steps=n).ham(x, ham(HamburgerNMF).bases)).norm())
              for n in (0, 1, 3, 7, 30)]
    assert errors == sorted(errors, reverse=True)


def test_a_matrix_of_the_rank_is_found() -> None:
    factors = draw(1, 1, 30, 3, dtype=DOUBLE).abs(), draw(1, 1, 3, 8, seed=1, dtype=DOUBLE).abs()
    x, mixer = factors[0] @ factors[1], ham(HamburgerNMF, steps=3000)
    assert (mixer.ham(x, mixer.bases) - x).norm() < 0.01 * x.norm()


def test_as_many_directions_as_bases_are_found() -> None:
    """Places that are copies of three vectors: quantised, they are themselves; by least squares, but for the ridge."""
    codes = F.normalize(draw(3, 8, dtype=DOUBLE), dim=-1)
    x = 20 * codes[torch.arange(30) % 3][None, None]
    start = F.normalize(codes + 0.2 * draw(3, 8, seed=1, dtype=DOUBLE), dim=-1).T[None]
    torch.testing.assert_close(ham(HamburgerVQ).ham(x, start), x, rtol=1e-4, atol=1e-4)
    found, gram = ham(HamburgerCD).ham(x, start), codes @ codes.T
    shrunk = torch.linalg.solve(gram + 0.1 * torch.eye(3, dtype=DOUBLE), gram, left=False)[torch.arange(30) % 3] @ codes
    torch.testing.assert_close(found, 20 * shrunk[None, None], rtol=1e-4, atol=1e-4)


def settled(build: Callable[..., Hamburger], x: Tensor, bases: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Bases and, for NMF, coefficients after the steps."""
    coefficients = (x @ bases).softmax(-1)
    for _ in range(steps):
        if build is HamburgerNMF:
            coefficients = updated(coefficients, x, bases)
            bases = updated(bases, x.mT, coefficients)
        else:
            bases = means(x, nearest(F.normalize(x, dim=-1), F.normalize(bases, dim=-2)))
    return F.normalize(bases, dim=-2) if build is HamburgerCD else bases, coefficients


def answered(build: Callable[..., Hamburger], x: Tensor, bases: Tensor, coefficients: Tensor) -> Tensor:
    """The step that has a gradient."""
    if build is HamburgerNMF:
        return coefficients * (x @ bases) / (coefficients @ bases.mT @ bases + 1e-6) @ bases.mT
    if build is HamburgerVQ:
        lengths = x.detach().norm(dim=-1, keepdim=True)
        return (100 * (x / (lengths + 1e-6)) @ F.normalize(bases, dim=-2)).softmax(-1) @ bases.mT
    return x @ bases @ torch.linalg.inv(bases.mT @ bases + 0.1 * torch.eye(3, dtype=DOUBLE)) @ bases.mT


@pytest.mark.parametrize("build", FORMS)
def test_the_gradient_is_that_of_one_step_from_a_start_held_still(build: Callable[..., Hamburger]) -> None:
    mixer, pull = ham(build), draw(2, 1, 30, 8, seed=3, dtype=DOUBLE)
    x = draw(2, 1, 30, 8, dtype=DOUBLE).abs().requires_grad_()

    def gradient(y: Tensor) -> Tensor:
        return torch.autograd.grad(y, x, pull)[0]
    bases, coefficients = settled(build, x, mixer.bases, 7)
    one = answered(build, x, bases.detach(), coefficients.detach())
    mixed = mixer.ham(x, mixer.bases)
    torch.testing.assert_close(mixed, one)
    torch.testing.assert_close(gradient(mixed), gradient(one))
    whole = answered(build, x, bases, coefficients)
    assert not torch.allclose(gradient(whole), gradient(mixer.ham(x, mixer.bases)), rtol=0.1, atol=1e-3)


@pytest.mark.parametrize("build", FORMS)
def test_training_makes_one_step_less(build: Callable[..., Hamburger]) -> None:
    mixer, x = build(8, 1, rank=3), draw(2, 1, 30, 8)
    assert mixer.train().steps == 6 and mixer.eval().steps == 7
    in_training = mixer.train().ham(x, mixer.bases)
    assert torch.equal(in_training, build(8, 1, rank=3, eval_steps=6).eval().ham(x, mixer.bases))
    assert not torch.equal(in_training, mixer.eval().ham(x, mixer.bases))


@pytest.mark.parametrize("build", FORMS)
def test_the_start_is_drawn_once_and_kept(build: Callable[..., Hamburger]) -> None:
    x, (one, same, other) = draw(2, 5, 4, 16), (build(16, 2, rank=3, seed=s).eval() for s in (0, 0, 1))
    assert torch.equal(one.bases, same.bases) and not torch.equal(one.bases, other.bases)
    assert "bases" in one.state_dict() and "bases" not in dict(one.named_parameters())
    torch.testing.assert_close(one.bases.norm(dim=1), torch.ones(2, 3))
    assert (one.bases >= 0).all() == (build is HamburgerNMF)
    before = one.bases.clone()
    assert torch.equal(one(x), one(x))
    one.train()(x)
    assert torch.equal(one.bases, before)


@pytest.mark.parametrize("build", FORMS)
def test_groups_of_channels_do_not_meet_in_the_ham(build: Callable[..., Hamburger]) -> None:
    mixer, x = build(16, 2, rank=3).eval(), draw(1, 2, 20, 8)
    both = mixer.ham(x, mixer.bases)
    for head in (0, 1):
        torch.testing.assert_close(mixer.ham(x[:, head:head + 1], mixer.bases[head:head + 1]), both[:, head:head + 1])


@pytest.mark.parametrize("build", FORMS)
def test_no_light_and_16_bits_give_numbers(build: Callable[..., Hamburger]) -> None:
    mixer = build(8, 1, rank=3).train()
    x = torch.zeros(2, 3, 4, 8, requires_grad=True)
    mixer(x).sum().backward()
    assert x.grad is not None and x.grad.isfinite().all()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = mixer(draw(2, 3, 4, 8))
    y.float().sum().backward()
    assert y.isfinite().all() and all(p.grad is not None and p.grad.isfinite().all() for p in mixer.parameters())


@pytest.mark.parametrize("build", FORMS)
def test_shapes_alone_suffice(build: Callable[..., Hamburger]) -> None:
    """As where a run's settings are checked before anything is computed."""
    with torch.device("meta"):
        assert build(8, 1, rank=3)(torch.empty(2, 3, 4, 8)).shape == (2, 3, 4, 8)


@pytest.mark.parametrize("build", FORMS)
@pytest.mark.parametrize("training", [False, True])
def test_memory_is_linear_in_the_tokens_and_steps_add_none(build: Callable[..., Hamburger], training: bool) -> None:
    def peak(side: int, steps: int = 6) -> int:
        mixer = build(16, 1, rank=2, train_steps=steps, eval_steps=steps).train(training)
        x = draw(1, side, side, 16)
        if training:
            return peak_bytes(lambda: mixer(x).sum().backward())
        with torch.inference_mode():
            return peak_bytes(lambda: mixer(x))
    assert peak(64) <= 1.1 * 4 * peak(32)
    assert peak(32, steps=20) <= 1.01 * peak(32)


def test_wrong_numbers_are_refused() -> None:
    for heads in (3, 0):
        with pytest.raises(ValueError, match=f"{heads} heads do not divide a width of 16"):
            HamburgerVQ(12, heads, hidden=16)
    with pytest.raises(ValueError, match="a rank of 0"):
        HamburgerNMF(12, 1, rank=0)
