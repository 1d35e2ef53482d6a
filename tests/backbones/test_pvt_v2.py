"""PVT v2: convolutions in place of positions, linear attention over means, and the ReLU of its release."""
import math
from typing import Any

import pytest
import torch
from torch import nn

import vitrail
from tests.backbones.made import noise
from vitrail.backbones.pvt_v2 import PVTv2, linear_reduction, overlapping_patches
from vitrail.core.errors import ModelError
from vitrail.nn import Conv, DepthwiseMlp, Reduced


def small(**changes: Any) -> PVTv2:
    torch.manual_seed(0)
    return PVTv2(**{"dims": (16, 32), "depths": (1, 1), "heads": (1, 2), "mlp_ratios": (2, 2), "reductions": (4, 1),
                    **changes}).eval()


def test_the_mlp_sees_its_neighbours_channel_by_channel() -> None:
    mlp, x = DepthwiseMlp(4, 6), noise(1, 7, 7, 4).requires_grad_()
    (slope,) = torch.autograd.grad(mlp(x)[0, 3, 5].sum(), x)
    expected = torch.zeros(7, 7, dtype=torch.bool)
    expected[2:5, 4:7] = True
    assert torch.equal(slope[0].abs().sum(-1) > 0, expected)
    hidden = noise(1, 5, 5, 6).requires_grad_()
    (slope,) = torch.autograd.grad(mlp.conv(hidden)[0, 2, 2, 1], hidden)
    assert slope.abs().sum((0, 1, 2)).nonzero().flatten().tolist() == [1]


def test_without_neighbours_it_is_an_mlp() -> None:
    mlp, x = DepthwiseMlp(4, 6), noise(2, 3, 5, 4)
    with torch.no_grad():
        mlp.conv.weight.zero_()[:, :, 1, 1] = 1
        nn.init.zeros_(mlp.conv.bias)
        torch.testing.assert_close(mlp(x), mlp.fc2(nn.functional.gelu(mlp.fc1(x))))


def test_patches_reach_into_their_neighbours() -> None:
    x = noise(1, 32, 32, 3).requires_grad_()
    for patch, stride, rows in ((7, 4, range(13, 20)), (3, 2, range(7, 10))):
        (slope,) = torch.autograd.grad(overlapping_patches(patch, stride, 3, 8)(x)[0, 4, 4].square().sum(), x)
        assert slope[0].abs().sum((1, 2)).nonzero().flatten().tolist() == list(rows)


def test_only_the_zeros_at_the_edge_tell_where_a_token_is() -> None:
    """On an image of one colour the places of the interior cannot be told apart, those of the border can."""
    model = small(depths=(2,), dims=(16,), heads=(2,), mlp_ratios=(2,), reductions=(2,))
    found = model(torch.full((1, 3, 96, 96), 0.7)).maps[0][0]               # (24, 24, C)
    inside = found[4:-4, 4:-4]
    torch.testing.assert_close(inside, inside[:1, :1].expand_as(inside), rtol=1e-4, atol=1e-4)
    assert (found[0, 0] - inside[0, 0]).abs().max() > 0.01
    assert not any("position" in name for name, _ in model.named_parameters())


@pytest.mark.parametrize("H, W", [(14, 21), (16, 9), (3, 5), (1, 1)])
def test_linear_attention_has_as_many_keys_at_every_size(H: int, W: int) -> None:
    mixer, x, seen = linear_reduction(8, 2, 7), noise(1, H, W, 8), []
    mixer.attend.fused = False
    mixer.attend.softmax.register_forward_hook(lambda module, args, out: seen.append(out.shape))
    mixer(x)
    assert seen == [(1, 2, H * W, 49)]
    assert isinstance(mixer.groups, Reduced)
    cells = mixer.reduce.pool(x).permute(0, 3, 1, 2)                        # and explanations share out the same means
    torch.testing.assert_close(mixer.groups.pool(x.permute(0, 3, 1, 2)), cells)


def test_the_linear_release_has_a_relu_before_the_convolution_and_no_other_has() -> None:
    for name, expected in (("pvt_v2_b2_li", nn.ReLU), ("pvt_v2_b2", nn.Identity)):
        mlps = [m for m in vitrail.create_model(name).modules() if isinstance(m, DepthwiseMlp)]
        assert len(mlps) == 16 and {type(m.first) for m in mlps} == {expected}


def test_it_reduces_the_last_stage_too_where_it_is_linear() -> None:
    model = vitrail.create_model("pvt_v2_b2_li", depths=(1, 1, 1, 1))
    with torch.inference_mode(), vitrail.record(model) as seen:
        model(noise(1, 3, 64, 64))
    assert [layer.weights.shape[-1] for layer in seen.layers] == [49] * 4


def test_each_stage_ends_in_a_norm() -> None:
    for map_ in small()(noise(2, 3, 64, 64)).maps:
        torch.testing.assert_close(map_.mean(-1), torch.zeros(map_.shape[:-1]), rtol=0, atol=1e-5)


def test_epsilons_are_those_of_the_release() -> None:
    for name, part in vitrail.create_model("pvt_v2_b0").named_modules():
        if isinstance(part, nn.LayerNorm):
            assert part.eps == (1e-5 if name.endswith(("down.norm", "reduce.norm")) else 1e-6), name


def test_born_as_published() -> None:
    for part in vitrail.create_model("pvt_v2_b1").modules():
        if isinstance(part, nn.Linear):
            assert part.weight.std().item() == pytest.approx(0.02, rel=0.06) and not part.bias.any()
        elif isinstance(part, Conv):
            fan_out = part.out_channels // part.groups * part.kernel_size[0] ** 2       # within a group
            assert part.weight.std().item() == pytest.approx(math.sqrt(2 / fan_out), rel=0.1)
            assert part.bias is not None and not part.bias.any()


@pytest.mark.parametrize("changes, told", [(dict(pool=7), "pool=7"), (dict(heads=(1,)), "1 heads")])
def test_settings_that_do_not_go_together_are_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ModelError, match=told):
        small(**changes)
