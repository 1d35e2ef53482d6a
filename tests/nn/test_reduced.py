"""Attention to a reduced map: what it sees, what it is without reduction, and how its cells share out what they get."""
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.core.errors import ModelError
from vitrail.nn import ReducedAttention, SelfAttention, Shrink, squares
from vitrail.nn.reduced import Reduced


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def attention(size: int, *, dim: int = 8, heads: int = 2) -> ReducedAttention:
    torch.manual_seed(0)
    return ReducedAttention(dim, heads, Shrink(dim, size, nn.LayerNorm(dim)), squares(size)).eval()


def test_without_reduction_it_is_plain_attention() -> None:
    mixer, plain, x = ReducedAttention(8, 2, nn.Identity(), None), SelfAttention(8, 2), noise(2, 3, 5, 8)
    with torch.no_grad():
        for name in ("weight", "bias"):
            getattr(plain.qkv.proj, name).copy_(torch.cat([getattr(mixer.q, name), getattr(mixer.kv, name)]))
    plain.out = mixer.out
    torch.testing.assert_close(mixer(x).flatten(1, 2), plain(x.flatten(1, 2)))


def test_a_bias_is_added_to_the_scores() -> None:
    mixer, x = attention(2), noise(1, 4, 4, 8)
    far = torch.zeros(2, 16, 4)
    far[..., 1:] = -torch.inf                                   # only the first cell is left to be looked at
    first = mixer.kv(mixer.reduce(x)).flatten(1, 2)[:, :1, 8:]
    torch.testing.assert_close(mixer(x, far), mixer.out.proj(first).expand(1, 16, 8).unflatten(1, (4, 4)))


@pytest.mark.parametrize("H, W, seen", [(4, 6, (4, 6)), (5, 7, (4, 6)), (1, 5, (1, 4)), (1, 1, (1, 1))])
def test_a_place_sees_itself_and_every_whole_square(H: int, W: int, seen: tuple[int, int]) -> None:
    mixer, x = attention(2), noise(1, H, W, 8).requires_grad_()
    for y, at in ((0, 0), (H - 1, W - 1)):
        (slope,) = torch.autograd.grad(mixer(x)[0, y, at].square().sum(), x)
        expected = torch.zeros(H, W, dtype=torch.bool)
        expected[:seen[0], :seen[1]] = True
        expected[y, at] = True                                  # its own query, also past the last whole square
        assert torch.equal(slope[0].abs().sum(-1) > 0, expected)


@pytest.mark.parametrize("H, W", [(16, 24), (17, 31), (8, 3), (2, 5)])
def test_a_short_side_is_one_cell(H: int, W: int) -> None:
    assert Shrink(4, 8, nn.Identity())(noise(1, H, W, 4)).shape == (1, max(1, H // 8), max(1, W // 8), 4)


def test_depthwise_each_channel_is_made_of_itself() -> None:
    shrink, x = Shrink(4, 2, nn.Identity(), groups=4), noise(1, 4, 4, 4).requires_grad_()
    (slope,) = torch.autograd.grad(shrink(x)[0, 1, 0, 2], x)
    assert slope.nonzero().tolist() == [[0, y, at, 2] for y in (2, 3) for at in (0, 1)]


def test_a_cell_gives_equal_parts_to_the_places_of_its_square() -> None:
    weights = torch.tensor([[[0.1, 0.2, 0.3, 0.4]]])
    found = squares(2).spread(weights, 5, 4).view(5, 4)
    expected = weights.view(2, 2).repeat_interleave(2, 0).repeat_interleave(2, 1) / 4
    torch.testing.assert_close(found[:4], expected)
    assert not found[4].any(), "the rest of the map was not looked at"


POOLS = [squares(4), squares(3), Reduced(nn.AdaptiveAvgPool2d(7)),
         Reduced(partial(F.avg_pool2d, kernel_size=3, stride=2, padding=1))]    # cells that overlap and reach out


@pytest.mark.parametrize("groups", POOLS, ids=["squares4", "squares3", "adaptive", "overlapping"])
@pytest.mark.parametrize("H, W", [(12, 12), (13, 9), (5, 2), (1, 1)])
def test_rows_keep_their_sum(groups: Reduced, H: int, W: int) -> None:
    cells = groups.pool(torch.zeros(1, 1, H, W)).numel()
    weights = noise(2, 3, cells).softmax(-1) * 1.7
    with torch.inference_mode():
        found = groups.spread(weights, H, W)
    assert found.shape == (2, 3, H * W) and found.min() >= 0
    torch.testing.assert_close(found.sum(-1), weights.sum(-1))


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ModelError, match="hold nothing"):
        Shrink(8, 0, nn.Identity())
    with pytest.raises(ModelError, match="3 heads"):
        ReducedAttention(8, 3, nn.Identity(), None)
