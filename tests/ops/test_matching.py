"""The assignment: cheapest, whole, without gradient, and plain about costs that are none. (Brute force is a claim.)"""
import pytest
import torch

from tests.attention.proof import draw
from vitrail.core.errors import TrainingError
from vitrail.ops.matching import assign


def test_an_example_that_greed_gets_wrong() -> None:
    rows, columns = assign(torch.tensor([[1.0, 2.0], [1.5, 9.0]]))
    assert rows.tolist() == [0, 1] and columns.tolist() == [1, 0]


@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (4, 4), (0, 3), (3, 0)])
def test_each_row_and_column_is_taken_once(shape: tuple[int, int]) -> None:
    rows, columns = assign(draw(*shape))
    assert rows.dtype == columns.dtype == torch.int64 and len(rows) == len(columns) == min(shape)
    assert rows.tolist() == sorted(set(rows.tolist())) and len(set(columns.tolist())) == len(columns)


def test_a_permuted_table_gives_the_permuted_answer() -> None:
    cost, order = draw(7, 7), torch.randperm(7, generator=torch.Generator().manual_seed(0))
    rows, columns = assign(cost)
    _, moved = assign(cost[:, order])
    assert torch.equal(order[moved], columns) and rows.tolist() == list(range(7))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int64])
def test_any_kind_of_number_will_do_and_no_gradient_comes_back(dtype: torch.dtype) -> None:
    cost = (10 * draw(4, 6)).to(dtype)
    expected = assign(cost.double())
    if dtype.is_floating_point:
        cost.requires_grad_()
    assert all(torch.equal(a, b) and not a.requires_grad for a, b in zip(assign(cost), expected, strict=True))


def test_infinity_forbids_a_pair() -> None:
    cost = torch.tensor([[0.0, torch.inf], [0.0, 5.0]])
    assert assign(cost)[1].tolist() == [0, 1]
    with pytest.raises(TrainingError, match="none is left"):
        assign(torch.tensor([[0.0, torch.inf], [0.0, torch.inf]]))


@pytest.mark.parametrize("bad", [torch.nan, -torch.inf])
def test_costs_that_are_no_numbers_are_refused(bad: float) -> None:
    with pytest.raises(TrainingError, match="1 of 4 costs"):
        assign(torch.tensor([[0.0, bad], [1.0, 2.0]]))


def test_a_batch_is_not_a_table() -> None:
    with pytest.raises(ValueError, match="rows and columns"):
        assign(draw(2, 3, 3))
