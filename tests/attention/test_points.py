"""Attention between points: who is near, what a point hears of, and that neither order nor origin matters."""
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import vitrail
from tests.attention.proof import apart, draw
from vitrail.attention.offset_attention import Offset, OffsetAttention
from vitrail.attention.point_transformer import PointTransformer, PointTransformerMap
from vitrail.core.errors import ModelError
from vitrail.measure.memory import peak_bytes
from vitrail.ops import points
from vitrail.testing.noise import fill_


def cloud(N: int, C: int) -> tuple[Tensor, Tensor]:
    return draw(2, N, 3, dtype=torch.float64), draw(2, N, C, seed=1, dtype=torch.float64)


def test_the_nearest_come_first_however_they_are_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    xyz, _ = cloud(23, 1)
    expected = (xyz[:, :, None] - xyz[:, None]).square().sum(-1).argsort(-1)[..., :6]
    assert torch.equal(points.nearest_points(xyz, 6), expected)
    assert torch.equal(expected[..., 0], torch.arange(23).expand(2, -1))
    monkeypatch.setattr(points, "_DISTANCES", 100)                      # two points at a time
    assert torch.equal(points.nearest_points(xyz, 6), expected)
    assert points.nearest_points(xyz, 40).shape == (2, 23, 23)


def test_rows_are_taken_from_their_own_cloud() -> None:
    _, x = cloud(9, 4)
    index = torch.randint(0, 9, (2, 5, 3), generator=torch.Generator().manual_seed(0))
    expected = torch.stack([cloud[at] for cloud, at in zip(x, index, strict=True)])
    assert torch.equal(points.points_at(x, index), expected)


@torch.no_grad()
def test_a_cloud_has_neither_order_nor_origin() -> None:
    mixer, (xyz, x) = PointTransformer(16, 4, neighbours=5).double().eval(), cloud(19, 16)
    fill_(mixer)
    order, out = torch.randperm(19, generator=torch.Generator().manual_seed(0)), mixer(xyz, x)
    assert apart(mixer(xyz[:, order], x[:, order]), out[:, order]) < 1e-12
    assert apart(mixer(xyz + 3, x), out) < 1e-12
    assert apart(mixer(xyz * 2, x), out) > 1e-3


def test_a_point_hears_of_its_neighbours_only() -> None:
    mixer, (xyz, x) = PointTransformer(16, 4, neighbours=5).double().eval(), cloud(19, 16)
    x.requires_grad_()
    mixer(xyz, x)[0, 7].sum().backward()
    assert x.grad is not None
    heard = x.grad[0].abs().sum(-1).nonzero().flatten().tolist()
    assert sorted(heard) == sorted(points.nearest_points(xyz, 5)[0, 7].tolist())


def test_a_place_of_a_map_hears_two_pixels_far() -> None:
    mixer, x = PointTransformerMap(8, 2).double().eval(), draw(1, 9, 8, 8, dtype=torch.float64).requires_grad_()
    mixer(x)[0, 4, 3].sum().backward()
    assert x.grad is not None
    y, u = torch.meshgrid(torch.arange(9), torch.arange(8), indexing="ij")
    assert torch.equal(x.grad[0].abs().sum(-1) > 0, (y - 4) ** 2 + (u - 3) ** 2 <= 4)


def test_memory_of_a_cloud_grows_with_its_points() -> None:
    mixer = PointTransformer(8, 2, neighbours=4).eval()
    small, large = (peak_bytes(partial(mixer, draw(1, N, 3), draw(1, N, 8))) for N in (1024, 4096))
    assert large < 4.2 * small


def test_coordinates_and_features_get_gradients() -> None:
    mixer, (xyz, x) = PointTransformer(8, 2, neighbours=3).double().eval(), cloud(6, 8)
    fill_(mixer)
    inputs = (xyz.requires_grad_(), x.requires_grad_())
    assert torch.autograd.gradcheck(mixer, inputs, fast_mode=True)


@torch.no_grad()
def test_offset_attention_is_what_equation_9_says() -> None:
    """Softmax over those who ask, then over the sum of a row, multiplied out."""
    mixer, (_, x) = Offset(16).double().eval(), cloud(11, 16)
    fill_(mixer)
    with vitrail.record(mixer) as seen:
        out = mixer(x)
    k = mixer.key(x)
    weights = (k @ k.mT).softmax(1)
    weights = weights / weights.sum(2, keepdim=True)
    assert apart(seen["attend.softmax"][:, 0], weights) < 1e-12
    rest, norm = mixer.linear(x - weights @ mixer.value(x)), mixer.norm
    normed = F.batch_norm(rest.mT, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps).mT
    assert apart(out, normed.relu()) < 1e-12
    whole = OffsetAttention(16).double().eval()
    whole.offset.load_state_dict(mixer.state_dict())
    assert apart(whole(x), x + out) < 1e-12


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ModelError, match="3 heads do not divide a width of 16"):
        PointTransformer(16, 3)
    with pytest.raises(ModelError, match="a point needs a neighbour"):
        PointTransformer(16, 4, neighbours=0)
    with pytest.raises(ModelError, match="a quarter of the width, which 6 does not have"):
        OffsetAttention(6)
