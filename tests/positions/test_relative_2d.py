"""Relative places in two dimensions: offsets alone count, other grids, and what is never held in memory."""
import pytest
import torch

from tests.attention.proof import draw
from vitrail.measure.memory import peak_bytes
from vitrail.positions.relative_2d import RelativeLogits2d, resampled, skew, sliced


@pytest.mark.parametrize("n", (1, 2, 5))
def test_skewing_reads_offsets_as_places(n: int) -> None:
    offsets = torch.arange(1 - n, n).expand(3, n, -1)
    at = torch.arange(n)
    assert torch.equal(skew(offsets)[1], at - at[:, None])      # key minus query


@torch.no_grad()
def test_the_same_query_scores_the_same_offsets_alike() -> None:
    position, q = RelativeLogits2d((4, 5), 6), draw(6).expand(20, 6)
    logits = position(q, (4, 5)).view(4, 5, 4, 5)
    torch.testing.assert_close(logits[0, 1, 2, 3], logits[1, 2, 3, 4])
    torch.testing.assert_close(logits[3, 4, 0, 2], logits[3, 3, 0, 1])
    assert not torch.isclose(logits[0, 1, 2, 3], logits[2, 3, 0, 1]), "there and back are two offsets"


@torch.no_grad()
def test_other_grids() -> None:
    table = draw(9, 6)                                          # of 5 places
    assert torch.equal(sliced(table, 3), table[2:7]) and torch.equal(sliced(table, 5), table)
    grown = sliced(table, 7)
    assert torch.equal(grown[2:-2], table) and torch.equal(grown[0], table[0]) and torch.equal(grown[-1], table[-1])
    for n in (1, 3, 9):
        even = resampled(table + table.flip(0), n)
        assert even.shape == (2 * n - 1, 6)
        torch.testing.assert_close(even, even.flip(0))          # offset 0 stays in the middle
    assert torch.equal(resampled(table, 5), table)


@torch.no_grad()
@pytest.mark.parametrize("fit", (resampled, sliced))
def test_both_forms_fit_other_grids_alike(fit: object) -> None:
    position = RelativeLogits2d((4, 5), 6, fit=fit).double()   # type: ignore[arg-type]
    for h, w in ((4, 5), (6, 2), (1, 9)):
        q, k = (draw(2, h * w, 6, seed=i, dtype=torch.float64) for i in range(2))
        wide_q, wide_k = position.widen(q, k, (h, w))
        assert wide_q.shape == wide_k.shape == (2, h * w, 6 + h + w)
        torch.testing.assert_close(wide_q @ wide_k.mT, q @ k.mT + position(q, (h, w)))


def test_what_is_never_held() -> None:
    """The logits take no N x N x D, and the wider queries and keys no N x N."""
    side, D = 24, 16
    position, q, k = RelativeLogits2d((side, side), D), draw(1, side ** 2, D), draw(1, side ** 2, D, seed=1)
    pairs = side ** 4 * 4
    assert peak_bytes(lambda: position(q, (side, side)).sum().backward()) < 4 * pairs
    assert peak_bytes(lambda: position.widen(q, k, (side, side))[0].sum().backward()) < pairs / 2
