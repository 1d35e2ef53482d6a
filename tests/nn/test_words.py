"""What the shared words promise, whoever uses them."""
import pytest
import torch

from vitrail.nn import (Attend, AvgPool, DropPath, Gelu, MaxPool, Mlp, PositionTable, RelativeBias, SelfAttention,
                        Softmax, Stack, Windows, drop_path_rates, share)
from vitrail.ops.windows import by_size


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_gelu_overwrites_only_where_no_gradient_is_recorded() -> None:
    act, x = Gelu(), noise(3, 5)
    kept = x.clone()
    expected = torch.nn.functional.gelu(kept)
    assert torch.equal(act(x), expected) and torch.equal(x, kept)
    with torch.no_grad():
        assert torch.equal(act(x), expected) and torch.equal(x, expected)


def test_an_mlp_leaves_its_input_alone() -> None:
    mlp, x = Mlp(8, 32), noise(2, 4, 8)
    kept = x.clone()
    with torch.no_grad():
        without = mlp(x)
    assert torch.equal(x, kept) and torch.equal(without, mlp(x))


def test_watching_changes_no_bit_and_the_open_form_agrees() -> None:
    attend, (q, k, v) = Attend(), noise(3, 2, 4, 7, 16).unbind(0)
    for bias in (None, noise(4, 7, 7), noise(2, 4, 7, 7)):
        fused = attend(q, k, v, bias)
        attend.watched = True
        assert torch.equal(attend(q, k, v, bias), fused)
        attend.watched, attend.fused = False, False
        torch.testing.assert_close(attend(q, k, v, bias), fused, rtol=1e-5, atol=1e-6)
        attend.fused = True


def test_groups_are_attended_alone() -> None:
    attend, (q, k, v) = Attend(), noise(3, 2, 5, 4, 7, 16).unbind(0)        # (B, G, H, n, D)
    bias = noise(5, 1, 7, 7)
    apart = torch.stack([attend(q[:, g], k[:, g], v[:, g], bias[g]) for g in range(5)], 1)
    torch.testing.assert_close(attend(q, k, v, bias), apart, rtol=1e-5, atol=1e-6)


def test_self_attention_without_positions_is_permutation_equivariant() -> None:
    mixer, x = SelfAttention(16, 4), noise(2, 9, 16)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(mixer(x)[:, order], mixer(x[:, order]), rtol=1e-5, atol=1e-6)


def test_a_map_given_to_plain_attention_would_see_one_row() -> None:
    """The hazard that a mixer over maps must name its partition for."""
    mixer = SelfAttention(16, 4)
    x = noise(1, 5, 6, 16).requires_grad_()
    mixer(x)[0, 2, 3].sum().backward()
    assert x.grad is not None
    seen = x.grad[0].abs().sum(-1) > 0
    assert seen[2].all() and seen.sum() == 6


def test_stochastic_depth_draws_for_the_whole_batch() -> None:
    drop, x = DropPath(0.5).train(), torch.ones(8, 3)
    torch.manual_seed(0)
    whole = drop(x)
    parts = []
    for rank in range(4):
        torch.manual_seed(0)
        with share(rank, 4):
            parts.append(drop(x[:2]))
    assert torch.equal(torch.cat(parts), whole)
    assert set(whole.flatten().tolist()) == {0.0, 2.0}


def test_stochastic_depth_keeps_the_mean_and_rests_in_evaluation() -> None:
    drop, x = DropPath(0.3), torch.ones(20_000, 1)
    torch.manual_seed(0)
    assert drop.train()(x).mean().item() == pytest.approx(1, abs=0.02)
    assert drop.eval()(x) is x


def test_the_ramp_starts_at_nothing_and_ends_at_p() -> None:
    assert drop_path_rates(0.3, 4) == pytest.approx([0, 0.1, 0.2, 0.3]) and drop_path_rates(0.3, 1) == [0.0]


def test_positions_of_the_own_grid_are_added_as_they_are() -> None:
    table = PositionTable((3, 4), 8, prefix=1)
    with torch.no_grad():
        table.table.copy_(noise(1, 13, 8))
    assert torch.equal(table(torch.zeros(1, 13, 8), (3, 4)), table.table)
    assert table(torch.zeros(1, 1 + 5 * 2, 8), (5, 2)).shape == (1, 11, 8)
    assert torch.equal(table(torch.zeros(1, 11, 8), (5, 2))[:, :1], table.table[:, :1]), "the prefix has no place"


def test_a_constant_table_stays_constant_on_any_grid() -> None:
    table = PositionTable((4, 4), 2)
    with torch.no_grad():
        table.table.fill_(3.0)
    for grid in ((7, 7), (2, 9), (1, 1), (5, 3)):
        nothing = torch.zeros(1, grid[0] * grid[1], 2)
        torch.testing.assert_close(table(nothing, grid), nothing + 3)


def test_relative_bias_depends_on_the_offset_alone() -> None:
    bias = RelativeBias(3, 2)
    with torch.no_grad():
        bias.table.copy_(noise(25, 2))
    found = bias().unflatten(1, (3, 3)).unflatten(3, (3, 3))          # (heads, y, x, y', x')
    assert torch.equal(found[:, 0, 0, 1, 1], found[:, 1, 1, 2, 2])
    assert torch.equal(found[:, 2, 0, 1, 2], found[:, 1, 0, 0, 2])


@pytest.mark.parametrize("size, shift", [(3, 0), (3, 1), (4, 2)])
@pytest.mark.parametrize("H, W", [(3, 3), (7, 5), (12, 8), (1, 9)])
def test_windows_are_undone(size: int, shift: int, H: int, W: int) -> None:
    windows, x = Windows(size, shift), noise(2, H, W, 5)
    assert torch.equal(windows.merge(windows.split(x), H, W), x)
    learning = x.clone().requires_grad_()
    assert torch.equal(windows.split(learning).detach(), windows.split(x)), "with a gradient and without: the same bits"


def test_constants_of_a_size_are_made_once_and_never_while_traced() -> None:
    made = []

    def make() -> torch.Tensor:
        made.append(1)
        return torch.zeros(2)
    like = torch.zeros(1)
    with torch.inference_mode():
        first = by_size("a test", like, make)
    assert by_size("a test", like, make) is first and len(made) == 1
    assert not first.is_inference(), "a constant made in inference must serve in training"
    by_size("a test", like.double(), make)
    assert len(made) == 2


def test_a_stack_hands_context_to_every_part() -> None:
    class Add(torch.nn.Module):
        def forward(self, x: torch.Tensor, by: torch.Tensor) -> torch.Tensor:
            return x + by
    assert Stack(Add() for _ in range(3))(torch.zeros(1), torch.ones(1)).item() == 3


def test_softmax_rows_sum_to_one() -> None:
    torch.testing.assert_close(Softmax()(noise(2, 3, 4)).sum(-1), torch.ones(2, 3))


@pytest.mark.parametrize("size, stride", [(2, 2), (4, 4), (3, 2), (3, 1)])
@pytest.mark.parametrize("H, W", [(1, 1), (5, 8), (7, 2)])
def test_pools_round_up_and_know_nothing_beyond_the_edge(size: int, stride: int, H: int, W: int) -> None:
    x, by = torch.randn(2, H, W, 3, generator=torch.Generator().manual_seed(0)) - 9, size // 2 if size % 2 else 0
    means, maxima = AvgPool(size, stride)(x), MaxPool(size, stride)(x)
    assert means.shape == maxima.shape == (2, -(-H // stride), -(-W // stride), 3)
    for i in range(means.shape[1]):
        for j in range(means.shape[2]):
            top, left = i * stride - by, j * stride - by
            window = x[:, max(top, 0):top + size, max(left, 0):left + size]
            torch.testing.assert_close(means[:, i, j], window.mean((1, 2)))
            assert torch.equal(maxima[:, i, j], window.amax((1, 2)))
