"""Sines and cosines: what a step is, what two places have in common, and how a table is found."""
import math

import pytest
import torch

from vitrail.core.errors import ModelError
from vitrail.positions.sinusoidal import Sinusoidal, frequencies, shift, sinusoids, waves


def test_the_papers_formula_entry_by_entry() -> None:
    code, dim = sinusoids(20, 10), 10
    for p in range(20):
        for i in range(dim // 2):
            angle = p / 10_000 ** (2 * i / dim)
            assert code[p, 2 * i].item() == pytest.approx(math.sin(angle), abs=1e-14)
            assert code[p, 2 * i + 1].item() == pytest.approx(math.cos(angle), abs=1e-14)


@pytest.mark.parametrize("d", [0, 1, -3, 0.5, 1000])
def test_a_step_is_one_rotation_wherever_it_begins(d: float) -> None:
    at = torch.linspace(-50, 700, 97, dtype=torch.float64)
    step = shift(d, 32)
    torch.testing.assert_close(waves(at, 32) @ step, waves(at + d, 32), atol=1e-12, rtol=0)
    torch.testing.assert_close(step @ step.T, torch.eye(32, dtype=torch.float64))
    assert torch.linalg.det(step).item() == pytest.approx(1)


def test_steps_add_up_and_can_be_undone() -> None:
    torch.testing.assert_close(shift(2, 16) @ shift(5, 16), shift(7, 16))
    torch.testing.assert_close(shift(2, 16) @ shift(-2, 16), torch.eye(16, dtype=torch.float64))


def test_what_two_places_have_in_common_depends_on_their_distance_alone() -> None:
    code = sinusoids(200, 64)
    common = code @ code.T
    for d in (0, 1, 10, 150):
        line = common.diagonal(d)
        torch.testing.assert_close(line, line[:1].expand_as(line))
        assert line[0].item() == pytest.approx(frequencies(64).mul(d).cos().sum().item())
    assert common.diagonal(1)[0] > common.diagonal(2)[0] > common.diagonal(10)[0]


def test_decoding_step_by_step_meets_the_places_of_the_whole() -> None:
    position, x = Sinusoidal(8), torch.randn(2, 300, 8)
    pieces = [position(x[:, a:b], a) for a, b in ((0, 1), (1, 250), (250, 300))]        # across a table's end
    assert torch.equal(torch.cat(pieces, 1), position(x))


def test_half_precision_gets_the_rounded_table_not_a_table_of_rounded_angles() -> None:
    added = Sinusoidal(8)(torch.zeros(1, 3000, 8, dtype=torch.bfloat16))
    assert torch.equal(added[0], sinusoids(3000, 8).bfloat16())


@pytest.mark.parametrize("dim", [0, 1, 7])
def test_a_sine_without_its_cosine_is_refused(dim: int) -> None:
    with pytest.raises(ModelError, match="even number"):
        Sinusoidal(dim)
