"""The four codes before sines and cosines fail, each in its own way, and sines and cosines in none of them."""
import math

import pytest
import torch
from torch import Tensor

from vitrail.core.errors import ModelError
from vitrail.positions.predecessors import bits, integers, normalised, sines
from vitrail.positions.sinusoidal import sinusoids


def steps(code: Tensor) -> Tensor:
    """How far each place lies from the next one: (N - 1)."""
    return (code[1:] - code[:-1]).norm(dim=-1)


def unmoved(code: Tensor, d: int) -> float:
    """The share of PE(p + d) that the best matrix T leaves unexplained by PE(p) T, by least squares over all p."""
    here, there = code[:-d], code[d:]
    best = torch.linalg.lstsq(here, there, driver="gelsd").solution
    return float((there - here @ best).norm() / there.norm())


def test_integers_grow_without_end() -> None:
    assert integers(10_000, 4).max() == 9_999
    torch.testing.assert_close(integers(1_000, 4).norm(dim=-1), 2.0 * torch.arange(1_000).double())
    token = torch.randn(4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    drowned = integers(1_000, 4)[-1] + token
    assert torch.cosine_similarity(drowned, torch.ones_like(drowned), dim=0) > 0.999     # whatever the token said


def test_normalised_places_change_with_the_length() -> None:
    assert normalised(11, 1)[3].item() == pytest.approx(0.3) and normalised(6, 1)[3].item() == pytest.approx(0.6)
    for length in (2, 10, 500):
        torch.testing.assert_close(steps(normalised(length, 1)), torch.full((length - 1,), 1 / (length - 1)).double())
    assert torch.equal(normalised(6, 1)[1], normalised(11, 1)[2])                        # one value, two places
    assert torch.equal(normalised(1, 2), torch.zeros(1, 2).double())


def test_binary_neighbours_are_unequally_far_apart_and_nothing_lies_between() -> None:
    code = bits(16, 4)
    assert steps(code)[[0, 1, 3, 7]].tolist() == pytest.approx([1, math.sqrt(2), math.sqrt(3), 2])
    assert set(code.flatten().tolist()) == {0.0, 1.0}
    assert len({tuple(row) for row in code.tolist()}) == 16                              # though it does tell all apart
    with pytest.raises(ModelError, match="at least 5 channels"):
        bits(17, 4)


@pytest.mark.parametrize("dim", [1, 3, 6])
def test_sines_alone_run_in_a_closed_loop(dim: int) -> None:
    around = 2 ** (dim + 1)
    code = sines(3 * around, dim)
    torch.testing.assert_close(code[around:], code[:-around])                            # the loop, which comes back
    ends = (code[around - 1] - code[0]).norm()
    assert ends.item() == pytest.approx(steps(code)[0].item())                           # the ends are neighbours
    slowest = code[:around, -1]
    torch.testing.assert_close(slowest[:around // 2 + 1], slowest[:around // 2 + 1].flip(0))    # up is as down


@pytest.mark.parametrize("d", [1, 2, 3, 5])
def test_no_matrix_moves_sines_alone_and_one_moves_sines_with_cosines(d: int) -> None:
    assert unmoved(sines(512, 6), d) > 0.3
    assert unmoved(sinusoids(512, 6), d) < 1e-12


def test_the_missing_cosine_is_all_that_sines_lack() -> None:
    """With the same waves a quarter turn on beside them, one matrix does."""
    code = sines(516, 6)
    period = 2.0 ** torch.arange(2, 8)
    cosines = (2 * math.pi * torch.arange(516).double()[:, None] / period).cos()
    assert unmoved(code, 3) > 0.3 and unmoved(torch.cat([code, cosines], -1), 3) < 1e-12


def test_sines_and_cosines_fail_in_none_of_these_ways() -> None:
    code = sinusoids(4096, 16)
    assert code.abs().max() <= 1                                                         # no value grows
    assert torch.equal(code[:100], sinusoids(100, 16))                                   # no length changes a place
    torch.testing.assert_close(steps(code), steps(code)[:1].expand(4095))                # neighbours are equally near
    nearest = torch.cdist(code, code).fill_diagonal_(torch.inf).min(1).values
    torch.testing.assert_close(nearest, steps(code)[:1].expand(4096))                    # and nobody else is nearer
    assert (code[-1] - code[0]).norm() > 2 * steps(code)[0]                              # the ends lie apart
