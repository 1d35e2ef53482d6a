"""Neighbourhoods: the lean products equal the written-out ones, in value and gradient, at every size and edge."""
import numpy as np
import pytest
import torch
from torch import Tensor

from tests.attention.proof import draw
from vitrail.measure.memory import peak_bytes
from vitrail.ops.neighbours import (by_offset, by_place, dots, gather, masked_edges, mix, outside, pad_reflected,
                                    pad_zero, reach)

SIZES = ((4, 4), (5, 3), (1, 2), (1, 1))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("window", (1, 3, 7))
def test_products_equal_the_written_out_ones(size: tuple[int, int], window: int) -> None:
    x, y = (draw(2, 3, *size, seed=i, dtype=torch.float64).requires_grad_() for i in range(2))
    w = draw(window * window, 2, *size, seed=2, dtype=torch.float64).requires_grad_()
    padded = pad_zero(y, reach(window))
    lean = dots(x, padded, window), mix(w, padded, window)
    whole = gather(padded, window)
    plain = (x * whole).sum(-3), (w[..., None, :, :] * whole).sum(0)
    for ours, theirs in zip(lean, plain, strict=True):
        torch.testing.assert_close(ours, theirs)
        needs = [t for t in (x, y, w) if torch.autograd.grad(theirs.sum(), t, retain_graph=True,
                                                             allow_unused=True)[0] is not None]
        cotangent = draw(*ours.shape, seed=3, dtype=torch.float64)
        for a, b in zip(torch.autograd.grad(ours, needs, cotangent, retain_graph=True),
                        torch.autograd.grad(theirs, needs, cotangent, retain_graph=True), strict=True):
            torch.testing.assert_close(a, b)


def test_gradients_of_gradients() -> None:
    x, padded = draw(2, 2, 3, dtype=torch.float64).requires_grad_(), draw(2, 4, 5, dtype=torch.float64).requires_grad_()
    w = draw(9, 2, 3, dtype=torch.float64).requires_grad_()

    def by_dots(x: Tensor, padded: Tensor) -> Tensor:
        return dots(x, padded, 3)

    def by_mix(w: Tensor, padded: Tensor) -> Tensor:
        return mix(w, padded, 3)
    assert torch.autograd.gradcheck(by_dots, (x, padded)) and torch.autograd.gradgradcheck(by_dots, (x, padded))
    assert torch.autograd.gradcheck(by_mix, (w, padded)) and torch.autograd.gradgradcheck(by_mix, (w, padded))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("by", (0, 1, 3, 8))
def test_a_mirror_is_numpys_at_any_size(size: tuple[int, int], by: int) -> None:
    x = draw(2, *size)
    expected = np.pad(x.numpy(), ((0, 0), (by, by), (by, by)), mode="reflect" if by else "constant")
    np.testing.assert_array_equal(pad_reflected(x, by).numpy(), expected)


@pytest.mark.parametrize("size", SIZES)
def test_outside_is_where_a_map_of_ones_shows_its_padding(size: tuple[int, int]) -> None:
    ones = gather(pad_zero(torch.ones(size), 2), 5)
    assert torch.equal(outside(*size, 5, ones) == 0, ones == 1)
    weights = masked_edges(draw(25, 1, 1, *size), 5).softmax(0)
    assert torch.equal(weights[:, 0, 0] == 0, ones == 0)


def test_shown_weights_come_back() -> None:
    weights = draw(9, 2, 3, 4, 5)
    shown = by_place(weights)
    assert shown.shape == (2, 3, 20, 9) and torch.equal(shown[1, 2, 7], weights[:, 1, 2, 1, 2])
    assert torch.equal(by_offset(shown, 4, 5), weights)


def test_the_products_never_hold_k_squared_maps() -> None:
    """k² numbers a place, forward and backward, where writing the neighbours out takes D times as many."""
    D, side, window = 64, 20, 7
    x, padded = draw(1, D, side, side).requires_grad_(), draw(1, D, side + 6, side + 6).requires_grad_()
    written = peak_bytes(lambda: gather(padded, window))
    assert written >= D * window ** 2 * side ** 2 * 4
    lean = peak_bytes(lambda: mix(dots(x, padded, window).softmax(0), padded, window).sum().backward())
    assert lean < written / 4


def test_many_small_terms_of_16_bits_add_up() -> None:
    """Adding 1/441 in bfloat16 441 times stops short of 1."""
    weights = torch.full((441, 1, 1), 1 / 441, dtype=torch.bfloat16)
    assert abs(float(mix(weights, torch.ones(1, 21, 21, dtype=torch.bfloat16), 21)) - 1) < 0.01


@pytest.mark.parametrize("window", (-1, 0, 2, 6))
def test_a_window_has_a_middle(window: int) -> None:
    with pytest.raises(ValueError, match="must be odd"):
        reach(window)
