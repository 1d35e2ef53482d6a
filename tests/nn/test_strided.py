"""Strided groups: split is undone by merge, and a group is what stands a stride apart."""
import pytest
import torch

from vitrail.nn import Strided, Windows

MAPS = [(8, 12), (7, 7), (6, 9), (5, 13), (3, 2), (1, 1)]
GROUPS = [Strided(stride=4), Strided(stride=1), Strided(size=4), Strided(size=7), Strided(size=1)]


@pytest.mark.parametrize("groups", GROUPS, ids=lambda g: f"stride{g.stride}-size{g.size}")
@pytest.mark.parametrize("H, W", MAPS)
def test_merge_undoes_split_and_only_padding_is_added(H: int, W: int, groups: Strided) -> None:
    x = torch.randn(2, H, W, 3)
    parts = groups.split(x)
    assert torch.equal(groups.merge(parts, H, W), x)
    real = groups.split(torch.ones(1, H, W, 1))
    assert real.sum() == H * W and (parts[:, real[0, ..., 0] == 0] == 0).all()


@pytest.mark.parametrize("groups", GROUPS, ids=lambda g: f"stride{g.stride}-size{g.size}")
@pytest.mark.parametrize("H, W", MAPS)
def test_tokens_share_a_group_where_a_stride_divides_what_lies_between_them(H: int, W: int, groups: Strided) -> None:
    y, x = torch.meshgrid(torch.arange(1, H + 1), torch.arange(1, W + 1), indexing="ij")       # 0 is padding
    parts = groups.split(torch.stack([y, x], -1)[None].float())[0]                             # (G, n, 2)
    dy, dx = groups.strides(H, W)
    assert parts.shape[0] == dy * dx
    for number, part in enumerate(parts):
        places = part[part[:, 0] > 0] - 1
        assert (places[:, 0] % dy == number // dx).all() and (places[:, 1] % dx == number % dx).all()


@pytest.mark.parametrize("H, W", MAPS)
def test_groups_of_a_size_have_that_many_tokens(H: int, W: int) -> None:
    assert Strided(size=4).split(torch.zeros(1, H, W, 1)).shape == (1, -(-H // 4) * -(-W // 4), 16, 1)


def test_a_size_as_large_as_the_map_is_one_window() -> None:
    x = torch.randn(2, 6, 6, 3)
    assert torch.equal(Strided(size=6).split(x), Windows(6).split(x)) and Strided(size=6).strides(6, 6) == (1, 1)


def test_strided_groups_and_windows_are_each_others_transpose() -> None:
    x = torch.randn(2, 8, 12, 3)
    assert torch.equal(Strided(stride=4).split(x), Windows(4).split(x).transpose(1, 2))


@pytest.mark.parametrize("told", [{}, {"stride": 2, "size": 2}, {"stride": -1}])
def test_one_of_stride_and_size_is_said(told: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="one of the two"):
        Strided(**told)
