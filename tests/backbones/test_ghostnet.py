"""GhostNet: what its cheap half is, where it strides, what stands behind the pooling, what it costs."""
import math

import pytest
import torch
from torch import nn

from vitrail.backbones.ghostnet import (STAGES, Ghost, GhostBottleneck, GhostHead, GhostNet, ghostnet_100,
                                        squeeze_excite)
from vitrail.nn import Conv, SqueezeExcite, round_width
from vitrail.testing.noise import fill_


def noisy(module: nn.Module) -> nn.Module:
    fill_(module)
    return module.eval()


@pytest.mark.parametrize("height, width", [(64, 64), (61, 35), (1, 1)])
def test_maps_have_the_widths_and_strides_they_are_said_to_have(height: int, width: int) -> None:
    model = GhostNet(width=0.5).eval()
    assert model.channels == (8, 12, 20, 56, 480) and model.strides == (2, 4, 8, 16, 32)
    for found, channels, stride in zip(model(torch.randn(2, 3, height, width)).maps, model.channels, model.strides,
                                       strict=True):
        assert found.shape == (2, math.ceil(height / stride), math.ceil(width / stride), channels)


@torch.no_grad()
def test_the_cheap_half_of_a_channel_comes_from_its_own_other_half() -> None:
    ghost = noisy(Ghost(6, 8, nn.Identity()))
    x = torch.randn(1, 5, 5, 6)
    before = ghost(x)
    ghost.primary.get_submodule("conv").weight[2] += 1              # type: ignore[operator,union-attr]
    moved = (ghost(x) != before).flatten(0, 2).any(0)
    assert moved.tolist() == [False, False, True, False] * 2
    assert ghost.cheap.get_submodule("conv").groups == 4


def test_cheap_halves_cost_little() -> None:
    """The paper's point: for many input channels a Ghost costs half of the 1 x 1 convolution that it replaces."""
    ghost, plain = Ghost(160, 960, nn.ReLU()), Conv(160, 960, 1, bias=False)
    convs = [m for m in ghost.modules() if isinstance(m, Conv)]
    assert sum(m.weight.numel() for m in convs) / plain.weight.numel() == pytest.approx(0.5 + 9 / 320)


def test_where_it_strides_and_squeezes() -> None:
    for i, stage in enumerate(GhostNet(width=0.5).stages):
        for j, (block, (_, _, _, squeeze)) in enumerate(zip(stage.children(), STAGES[i], strict=True)):
            assert isinstance(block, GhostBottleneck)
            strided = i > 0 and j == 0
            assert isinstance(block.down, nn.Identity) == (not strided)
            assert isinstance(block.squeeze, SqueezeExcite) == squeeze
            assert isinstance(block.narrow.primary.get_submodule("act"), nn.Identity)
            assert strided <= (not isinstance(block.shortcut, nn.Identity))


@torch.no_grad()
def test_the_gate_is_a_hard_sigmoid() -> None:
    gate = noisy(squeeze_excite(8)).double()
    x = 20 * torch.randn(3, 4, 5, 8, dtype=torch.float64)
    mean = x.mean((1, 2))
    hidden = (mean @ gate.reduce.weight[:, :, 0, 0].T + gate.reduce.bias).relu()
    logit = hidden @ gate.expand.weight[:, :, 0, 0].T + gate.expand.bias
    torch.testing.assert_close(gate(x), x * ((logit + 3).clamp(0, 6) / 6)[:, None, None])


def test_widths_are_multiples_of_four_that_lose_no_more_than_a_tenth() -> None:
    for width in (1, 5, 12.5, 20.8, 36, 93.6, 960):
        found = round_width(width, 4)
        assert found % 4 == 0 and found >= 0.9 * width and abs(found - width) < 4
    assert [round_width(w, 4) for w in (1, 8, 20.8, 18)] == [4, 8, 20, 20]


def test_the_head_widens_one_place() -> None:
    head = ghostnet_100().make_head(10)
    assert isinstance(head, GhostHead) and head.dropout.p == 0.2
    assert head.widen.weight.shape == (1280, 960, 1, 1) and head.linear.weight.shape == (10, 1280)


def test_gradients_reach_every_parameter() -> None:
    torch.manual_seed(0)
    model = GhostNet(width=0.5).train()
    features = model(torch.randn(4, 3, 64, 64))
    out = model.make_head(5)(features)
    (out * torch.randn(out.shape)).sum().backward()
    for name, p in model.named_parameters():
        assert p.grad is not None and p.grad.abs().sum() > 0, name
