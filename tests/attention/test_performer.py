"""Performer: what its random directions are like, how its estimate gets better, and what it survives."""
import math

import pytest
import torch
from torch import Tensor

from tests.attention.proof import draw
from vitrail.attention.performer import Performer, attend_features, directions, exponent


def test_directions_are_orthogonal_in_blocks_and_long_as_normal_vectors() -> None:
    torch.manual_seed(0)
    w = directions(2000 * 8 + 3, 8)
    assert w.shape == (16003, 8)
    blocks = w[:16000].unflatten(0, (-1, 8))
    across = blocks @ blocks.mT
    assert (across - torch.diag_embed(across.diagonal(dim1=1, dim2=2))).abs().max() < 1e-4
    assert w.square().sum(1).mean().item() == pytest.approx(8, rel=0.02)        # chi-squared of 8 degrees
    assert w.square().sum(1).var().item() == pytest.approx(16, rel=0.05)
    torch.testing.assert_close(w.T @ w / len(w), torch.eye(8), atol=0.05, rtol=0)


def softmax_error(count: int) -> float:
    """The mean square of what attention through `count` features misses."""
    q, k, v = draw(3, 40, 8).unbind()
    q, k = q / 2, k / 2                         # of large ones the features are heavy-tailed
    exact = (q @ k.T / 8 ** 0.5).softmax(-1) @ v
    scaled, errors = 8 ** -0.25, []

    def features(x: Tensor, w: Tensor) -> Tensor:
        along, half = exponent(x * scaled, w)
        return (along - half).exp()
    for _ in range(40):
        w = directions(count, 8)
        errors.append((attend_features(features(q, w), features(k, w), v) - exact).square().mean())
    return float(torch.stack(errors).mean())


def test_the_error_falls_with_the_number_of_features() -> None:
    torch.manual_seed(0)
    few, many = softmax_error(64), softmax_error(1024)
    slope = math.log(few / many) / math.log(16)             # the variance of a mean falls as 1 / M
    assert 0.8 < slope < 1.2


def test_redrawn_it_answers_otherwise_and_the_directions_are_saved() -> None:
    torch.manual_seed(0)
    module, x = Performer(16, 2, count=32), draw(1, 9, 16)
    before, state = module(x), {k: v.clone() for k, v in module.state_dict().items()}
    assert state["directions"].shape == (32, 8) and "directions" not in dict(module.named_parameters())
    module.redraw()
    assert not torch.allclose(module(x), before, atol=1e-4)
    module.load_state_dict(state)
    assert torch.equal(module(x), before)


def test_large_inputs_stay_finite() -> None:
    """exp(ω·x) alone would overflow; the largest exponent is taken off, and EPS keeps the quotient from 0 / 0."""
    torch.manual_seed(0)
    module, x = Performer(16, 2), 1000 * draw(2, 9, 16)
    assert exponent(module.qkv(x)[0], module.directions)[0].max() > 89
    assert module(x).isfinite().all()


def test_tokens_have_no_order() -> None:
    torch.manual_seed(0)
    module, x = Performer(16, 2), draw(1, 9, 16)
    torch.testing.assert_close(module(x.flip(1)), module(x).flip(1), atol=1e-5, rtol=1e-4)


def test_no_features_are_refused() -> None:
    with pytest.raises(ValueError, match="one feature at least"):
        Performer(16, 2, count=0)
