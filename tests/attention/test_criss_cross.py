"""What is true of criss-cross attention only: its reach, its joint softmax, its memory."""
import pytest
import torch
from torch import nn

from tests.attention.proof import draw
from vitrail.attention.criss_cross import CrissCross, JointSoftmax, RecurrentCrissCross, joint_softmax
from vitrail.explanation.record import record
from vitrail.measure.memory import peak_bytes
from vitrail.nn import Residual


@pytest.mark.parametrize("size", [(5, 6), (7, 3), (1, 4), (4, 1)])
def test_one_pass_sees_its_row_and_column_and_two_see_all(size: tuple[int, int]) -> None:
    h, w = size
    once, twice = CrissCross(16, 2, gain=1.0).double(), RecurrentCrissCross(16, 2, gain=1.0).double()
    for at in ((0, 0), (h // 2, w - 1)):
        crossed = torch.zeros(h, w, dtype=torch.bool)
        crossed[at[0]] = crossed[:, at[1]] = True
        for mixer, expected in ((once, crossed), (twice, torch.ones_like(crossed))):
            x = draw(1, h, w, 16, dtype=torch.float64).requires_grad_()
            mixer(x)[0, at[0], at[1]].sum().backward()
            assert x.grad is not None
            assert torch.equal(x.grad[0].abs().amax(-1) > 0, expected)
        assert int(crossed.sum()) == h + w - 1


def test_the_own_place_counts_once() -> None:
    """Where all scores are equal, every place of the cross weighs the same, the own one too."""
    mixer, x = CrissCross(8, 1, gain=1.0), draw(1, 4, 5, 8)
    with torch.no_grad():
        mixer.qkv.weight[:2 * mixer.hidden] = mixer.qkv.bias[:2 * mixer.hidden] = 0
        v = mixer.qkv(x)[..., 2 * mixer.hidden:]
        mean = (v.sum(1, keepdim=True) + v.sum(2, keepdim=True) - v) / (4 + 5 - 1)
        torch.testing.assert_close(mixer(x), mean)


def test_rows_and_columns_are_shown_and_sum_to_one_together() -> None:
    mixer, x = CrissCross(16, 2, gain=1.0), draw(3, 4, 6, 16)
    with record(mixer, gradients=True) as seen:
        mixer(x).sum().backward()
    rows, columns = seen["rows"], seen["columns"]
    assert rows.shape == (3, 4, 2, 6, 6) and columns.shape == (3, 6, 2, 4, 4)
    torch.testing.assert_close(rows.sum(-1) + columns.sum(-1).transpose(1, 3), torch.ones(3, 4, 2, 6))
    assert not columns.diagonal(dim1=-2, dim2=-1).any()
    assert rows.requires_grad and rows.grad_fn is not None


def test_large_scores_do_not_overflow_and_gradients_have_gradients() -> None:
    mixer, x = CrissCross(8, 1, gain=1.0), 300 * draw(1, 3, 4, 8)
    assert mixer(x).isfinite().all()
    rows, columns = (draw(1, 3, 1, 4, 4, dtype=torch.float64).requires_grad_(),
                     draw(1, 4, 1, 3, 3, seed=1, dtype=torch.float64).requires_grad_())

    def weights(rows: torch.Tensor, columns: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return JointSoftmax.apply(rows.clone(), columns.clone())
    assert torch.autograd.gradcheck(weights, (rows, columns))
    assert torch.autograd.gradgradcheck(weights, (rows, columns))


def test_the_published_layer_is_born_as_the_identity_and_rounds_share_their_weights() -> None:
    x = draw(2, 5, 4, 16)
    for mixer in (CrissCross(16, 1), RecurrentCrissCross(16, 1)):
        assert torch.equal(Residual(mixer, nn.Identity())(x), x)
    count = [sum(p.numel() for p in RecurrentCrissCross(16, 1, rounds=r).parameters()) for r in (1, 2, 5)]
    assert len(set(count)) == 1
    one, five = RecurrentCrissCross(16, 1, rounds=1, gain=1.0), CrissCross(16, 1, gain=1.0)
    five.load_state_dict(one.once.state_dict())
    assert torch.equal(one(x), five(x))


@pytest.mark.parametrize("training", [False, True])
def test_memory_grows_with_the_tokens_to_the_power_of_three_halves(training: bool) -> None:
    mixer = CrissCross(8, 1, gain=1.0)

    def peak(side: int) -> int:
        x = draw(1, side, side, 8)
        if training:
            return peak_bytes(lambda: mixer(x).sum().backward())
        with torch.inference_mode():
            return peak_bytes(lambda: mixer(x))
    small, large = peak(32), peak(128)
    assert large <= 1.05 * 16 ** 1.5 * small, "16 times the tokens"
    assert large <= (4 if training else 2) * 128 ** 2 * 256 * 4, "and a few times the weights themselves"


def test_wrong_numbers_are_refused() -> None:
    for heads in (3, 0):
        with pytest.raises(ValueError, match=f"{heads} heads do not divide"):
            CrissCross(16, heads)
    with pytest.raises(ValueError, match="2 heads do not divide widths of 16 and 3"):
        CrissCross(16, 2, hidden=3)
    with pytest.raises(ValueError, match="0 rounds"):
        RecurrentCrissCross(16, 1, rounds=0)


def test_the_two_ways_to_the_weights_are_one() -> None:
    """In place, with a gradient of its own, and out of place, for compilers: rows (B, h, H, w, w), columns."""
    found = []
    for way in (JointSoftmax.apply, joint_softmax):
        rows = draw(2, 3, 4, 5, 5, seed=1, dtype=torch.float64).requires_grad_()
        columns = draw(2, 5, 4, 3, 3, seed=2, dtype=torch.float64).requires_grad_()
        weights = way(rows * 1, columns * 1)
        sum((w * draw(*w.shape, seed=3, dtype=torch.float64)).sum() for w in weights).backward()
        found.append((*weights, rows.grad, columns.grad))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)
