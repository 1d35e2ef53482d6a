"""Local relation: a convolution where nothing is told apart, what a place sees, and who shares weights."""
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import vitrail
from tests.attention.proof import draw
from vitrail.attention.local_relation import (GeometricPrior, LocalRelation, TablePrior, absolute_difference, product,
                                              squared_difference)
from vitrail.measure.memory import peak_bytes


@torch.no_grad()
def test_without_appearance_it_is_a_depthwise_convolution() -> None:
    mixer, x = LocalRelation(8, 2, window=5).double(), draw(2, 9, 8, 8, dtype=torch.float64)
    nn.init.zeros_(mixer.qk.weight), nn.init.zeros_(mixer.qk.bias)
    nn.init.eye_(mixer.out.weight), nn.init.zeros_(mixer.out.bias)
    kernel = mixer.prior().softmax(0).T.reshape(2, 1, 5, 5).repeat_interleave(4, 0)     # groups are runs of channels
    expected = F.conv2d(x.permute(0, 3, 1, 2), kernel, groups=8).permute(0, 2, 3, 1)
    torch.testing.assert_close(mixer(x)[:, 2:-2, 2:-2], expected)


@torch.no_grad()
@pytest.mark.parametrize("relate", (squared_difference, absolute_difference, product))
def test_weights_sum_to_one_within_the_map(relate: object) -> None:
    mixer = LocalRelation(8, 2, window=3, relate=relate)        # type: ignore[arg-type]
    with vitrail.record(mixer) as seen:
        mixer(draw(1, 2, 4, 8))
    weights = seen["shown"]                                     # (B, G, N, K)
    assert weights.shape == (1, 2, 8, 9)
    torch.testing.assert_close(weights.sum(-1), torch.ones(1, 2, 8))
    assert torch.equal(weights[0, 0, 0].view(3, 3) > 0, torch.tensor([[0, 0, 0], [0, 1, 1], [0, 1, 1]]).bool())


@torch.no_grad()
def test_alike_composes_best() -> None:
    """Of two neighbours in mirrored places, the one whose key is nearer to the query weighs more."""
    for relate in (squared_difference, absolute_difference):
        q, k = torch.tensor(0.3), torch.tensor([0.4, 0.9])
        near, far = relate(q, k)
        assert near > far and relate(q, q) == 0


def test_a_place_sees_its_window_and_no_more() -> None:
    mixer, x = LocalRelation(8, 2, window=3), draw(1, 7, 6, 8).requires_grad_()
    mixer(x)[0, 3, 5].sum().backward()
    assert x.grad is not None
    expected = torch.zeros(7, 6, dtype=torch.bool)
    expected[2:5, 4:6] = True
    assert torch.equal(x.grad[0].abs().sum(-1) > 0, expected)


@torch.no_grad()
def test_inside_a_map_it_moves_with_its_input() -> None:
    mixer, x = LocalRelation(8, 2, window=5).double(), draw(1, 12, 11, 8, dtype=torch.float64)
    moved = mixer(x.roll((2, 1), (1, 2)))
    torch.testing.assert_close(mixer(x).roll((2, 1), (1, 2))[:, 4:-2, 3:-2], moved[:, 4:-2, 3:-2])


def test_priors_score_offsets() -> None:
    assert GeometricPrior(7, 3)().shape == TablePrior(7, 3)().shape == (49, 3)
    assert not TablePrior(7, 3)().any(), "a table is born without a preference"
    assert GeometricPrior(1, 2)().isfinite().all()


def test_memory_grows_with_the_places() -> None:
    mixer = LocalRelation(16, 2)

    def peak(side: int) -> int:
        return peak_bytes(lambda: mixer(draw(1, side, side, 16)).sum().backward())
    assert peak(32) < 4.2 * peak(16)


def test_what_cannot_be_built_says_why() -> None:
    with pytest.raises(ValueError, match="must be odd"):
        LocalRelation(16, 2, window=4)
    with pytest.raises(ValueError, match="do not divide"):
        LocalRelation(16, 3)
