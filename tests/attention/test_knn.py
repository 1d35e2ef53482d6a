"""What is true of k-NN attention only: how many tokens count, and which."""
import pytest
import torch

from tests.attention.proof import draw
from vitrail.attention.knn import KnnAttention, knn_attention
from vitrail.explanation.record import record
from vitrail.nn import SelfAttention


@pytest.mark.parametrize("tokens", [1, 4, 9])
def test_k_tokens_count_and_they_are_the_most_alike(tokens: int) -> None:
    mixer, x = KnnAttention(16, 2, neighbours=4), draw(3, tokens, 16)
    with torch.no_grad(), record(mixer) as seen:
        mixer(x)
        q, k, _ = mixer.qkv(x)
    weights, scores, count = seen.layers[0].weights, q @ k.mT, min(4, tokens)
    kept = weights > 0
    assert (kept.sum(-1) == count).all()
    torch.testing.assert_close(weights.sum(-1), torch.ones(3, 2, tokens))
    least = scores.masked_fill(~kept, float("inf")).amin(-1)
    assert (least >= scores.masked_fill(kept, float("-inf")).amax(-1)).all()


def test_tokens_that_are_left_out_move_nothing() -> None:
    mixer, x = KnnAttention(16, 1, neighbours=3), draw(1, 12, 16).requires_grad_()
    with record(mixer) as seen:
        mixer(x)[0, 5].sum().backward()
    expected = seen.layers[0].weights[0, 0, 5] > 0
    expected[5] = True                                      # who asks
    assert x.grad is not None and torch.equal(x.grad[0].abs().amax(-1) > 0, expected)


def test_as_many_neighbours_as_tokens_are_plain_attention() -> None:
    plain, x = SelfAttention(16, 2), draw(2, 9, 16)
    mixer = KnnAttention(16, 2)
    mixer.load_state_dict(plain.state_dict())
    torch.testing.assert_close(mixer(x), plain(x))


def test_equal_scores_still_leave_k() -> None:
    mixer = KnnAttention(16, 2, neighbours=4)
    with torch.no_grad(), record(mixer) as seen:
        mixer(torch.ones(1, 9, 16))
    assert ((seen.layers[0].weights > 0).sum(-1) == 4).all()


def test_as_a_mixer_it_looks_at_half_of_the_tokens() -> None:
    assert not isinstance(knn_attention.mixer, str)
    assert [knn_attention.mixer(16, 2, grid).neighbours for grid in ((14, 14), (3, 5), (1, 1))] == [98, 8, 1]


def test_wrong_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="0 neighbours"):
        KnnAttention(16, 2, neighbours=0)
    with pytest.raises(ValueError, match="3 heads do not divide"):
        KnnAttention(16, 3)
