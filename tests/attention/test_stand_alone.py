"""Stand-alone self-attention: what a place sees, at the edge too, and that its cost is its window's."""
import pytest
import torch

import vitrail
from tests.attention.proof import draw
from vitrail.attention.stand_alone import StandAlone
from vitrail.measure.memory import peak_bytes
from vitrail.nn import Attend
from vitrail.ops.neighbours import masked_edges
from vitrail.positions.relative_2d import RelativeLogits2d


def test_a_place_sees_its_window_and_no_more() -> None:
    mixer, x = StandAlone(16, 2, window=5), draw(1, 9, 10, 16).requires_grad_()
    mixer(x)[0, 4, 2].sum().backward()
    assert x.grad is not None
    seen = x.grad[0].abs().sum(-1) > 0
    expected = torch.zeros(9, 10, dtype=torch.bool)
    expected[2:7, 0:5] = True
    assert torch.equal(seen, expected)


@torch.no_grad()
def test_inside_a_map_it_moves_with_its_input() -> None:
    mixer, x = StandAlone(16, 2, window=5).double(), draw(1, 12, 11, 16, dtype=torch.float64)
    moved = mixer(x.roll((2, 1), (1, 2)))
    torch.testing.assert_close(mixer(x).roll((2, 1), (1, 2))[:, 4:-2, 3:-2], moved[:, 4:-2, 3:-2])


@torch.no_grad()
def test_a_window_over_the_whole_map_is_global_attention() -> None:
    h, w, window = 4, 3, 7
    mixer, x = StandAlone(6, 1, window=window, edges=masked_edges).double(), draw(2, h, w, 6, dtype=torch.float64)
    logits = RelativeLogits2d((h, w), 6).double()
    logits.rows.zero_(), logits.columns.zero_()
    logits.rows[:, :3], logits.columns[:, 3:] = mixer.rows[:, 0], mixer.columns[1:-1, 0]
    q, k, v = mixer.qkv(x.flatten(1, 2))
    torch.testing.assert_close(mixer(x).flatten(1, 2), Attend()(q, k, v, logits(q, (h, w)), scale=1.0)[:, 0])


@torch.no_grad()
def test_zeros_beyond_the_edge_take_weight_unless_masked() -> None:
    x = draw(1, 4, 4, 8)
    for mixer, total in ((StandAlone(8, 1, window=3), False), (StandAlone(8, 1, window=3, edges=masked_edges), True)):
        with vitrail.record(mixer) as seen:
            mixer(x)
        weights = seen["shown"]                                 # (B, H, N, K)
        assert weights.shape == (1, 1, 16, 9)
        torch.testing.assert_close(weights.sum(-1), torch.ones(1, 1, 16))
        corner = weights[0, 0, 0].view(3, 3)[1:, 1:].sum()      # what stays within the map
        assert (abs(corner - 1) < 1e-6) == total


def test_memory_grows_with_the_places() -> None:
    mixer = StandAlone(16, 2)

    def peak(side: int) -> int:
        return peak_bytes(lambda: mixer(draw(1, side, side, 16)).sum().backward())
    assert peak(32) < 4.2 * peak(16)


def test_what_cannot_be_built_says_why() -> None:
    with pytest.raises(ValueError, match="must be odd"):
        StandAlone(16, 2, window=4)
    with pytest.raises(ValueError, match="no half"):
        StandAlone(9, 3)
    with pytest.raises(ValueError, match="do not divide"):
        StandAlone(16, 3)
