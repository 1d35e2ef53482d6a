"""MobileNetV2: where a block is linear, where it has a shortcut, what the width spares, how it is born."""
import math

import pytest
import torch
from torch import nn

from vitrail.backbones.mobilenet_v2 import (ROWS, InvertedResidual, MobileNetV2, mobilenetv2_035, mobilenetv2_120d,
                                            mobilenetv2_140)
from vitrail.core.errors import ModelError
from vitrail.nn import Conv, DropPath
from vitrail.testing.noise import fill_


def blocks(model: nn.Module) -> list[InvertedResidual]:
    return [m for m in model.modules() if isinstance(m, InvertedResidual)]


def noisy(dim: int = 4, hidden: int = 24, out: int = 4, stride: int = 1) -> InvertedResidual:
    block = InvertedResidual(dim, hidden, out, stride=stride, act=nn.ReLU6(), drop=0.0)
    fill_(block)
    return block.eval()


@pytest.mark.parametrize("height, width", [(64, 64), (61, 35), (1, 1)])
def test_maps_have_the_widths_and_strides_they_are_said_to_have(height: int, width: int) -> None:
    model = mobilenetv2_035(depths=(1,) * 7).eval()
    assert model.channels == (8, 8, 16, 32, 1280) and model.strides == (2, 4, 8, 16, 32)
    for found, channels, stride in zip(model(torch.randn(2, 3, height, width)).maps, model.channels, model.strides,
                                       strict=True):
        assert found.shape == (2, math.ceil(height / stride), math.ceil(width / stride), channels)


@torch.no_grad()
def test_the_narrow_end_is_linear() -> None:
    """Scaling the last norm scales the branch, below zero and beyond six; an activation would cut."""
    block, x = noisy(), torch.randn(1, 6, 5, 4)
    branch = block(x) - x
    norm = block.narrow.get_submodule("norm")
    norm.weight *= -50                                              # type: ignore[operator]
    norm.bias *= -50                                                # type: ignore[operator]
    torch.testing.assert_close(block(x) - x, -50 * branch, rtol=1e-4, atol=1e-4)
    assert (50 * branch).abs().max() > 6


@torch.no_grad()
def test_channels_are_filtered_each_by_itself_and_cut_at_six() -> None:
    block = noisy(hidden=24)
    x = 100 * torch.randn(1, 6, 5, 24)
    before = block.depthwise(x)
    assert before.min() == 0 and before.max() == 6
    x[..., 7] = 0
    moved = (block.depthwise(x) != before).flatten(0, 2).any(0)
    assert moved.nonzero().flatten().tolist() == [7]


@torch.no_grad()
@pytest.mark.parametrize("out, stride, shortcut", [(4, 1, True), (4, 2, False), (6, 1, False)])
def test_the_shortcut_stands_only_where_the_shape_is_kept(out: int, stride: int, shortcut: bool) -> None:
    block, x = noisy(out=out, stride=stride), torch.randn(1, 6, 6, 4)
    nn.init.zeros_(block.narrow.get_submodule("norm").weight)       # type: ignore[arg-type]
    nn.init.zeros_(block.narrow.get_submodule("norm").bias)         # type: ignore[arg-type]
    y = block(x)
    assert torch.equal(y, x) if shortcut else not y.any()


def test_the_first_block_does_not_widen() -> None:
    first, *others = blocks(MobileNetV2())
    assert isinstance(first.widen, nn.Identity)
    for block in others:
        conv = block.widen.get_submodule("conv")
        assert isinstance(conv, Conv) and conv.out_channels == 6 * conv.in_channels


def test_the_first_block_of_a_row_strides() -> None:
    for row, (_, _, stride) in zip(MobileNetV2().rows, ROWS, strict=True):
        strides = [b.depthwise.get_submodule("conv").stride[0] for b in blocks(row)]    # type: ignore[index]
        assert strides == [stride] + [1] * (len(strides) - 1)


def test_what_the_width_spares() -> None:
    """Narrow nets keep the last convolution (section 4); timm's deeper sizes keep the first one too."""
    def ends(model: MobileNetV2) -> tuple[int, int]:
        first, last = model.patch_embed.get_submodule("conv"), model.last.get_submodule("conv")
        assert isinstance(first, Conv) and isinstance(last, Conv)
        return first.out_channels, last.out_channels
    assert ends(mobilenetv2_035()) == (16, 1280) and ends(mobilenetv2_140()) == (48, 1792)
    assert ends(mobilenetv2_120d()) == (32, 1280) and ends(mobilenetv2_120d(fixed_ends=False)) == (40, 1536)


def test_it_is_born_with_convolutions_by_fan_out_within_a_group() -> None:
    torch.manual_seed(0)
    model = MobileNetV2()
    conv = model.last.get_submodule("conv")
    depthwise = blocks(model)[-1].depthwise.get_submodule("conv")
    assert isinstance(conv, Conv) and isinstance(depthwise, Conv)
    assert conv.weight.std().item() == pytest.approx(math.sqrt(2 / 1280), rel=0.02)
    assert depthwise.weight.std().item() == pytest.approx(math.sqrt(2 / 9), rel=0.05)
    linear = model.make_head(100).get_submodule("linear")
    assert isinstance(linear, nn.Linear)
    assert linear.weight.std().item() == pytest.approx(0.01, rel=0.02) and not linear.bias.any()


def test_stochastic_depth_grows_and_the_readout_drops() -> None:
    model = MobileNetV2(drop_path=0.32)
    drops = [m.p for m in model.modules() if isinstance(m, DropPath)]
    assert drops == pytest.approx([0.02 * i for i in range(17)])
    dropout = model.make_head(10).get_submodule("pool.dropout")
    assert isinstance(dropout, nn.Dropout) and dropout.p == 0.2


@pytest.mark.parametrize("depths", [(1, 2, 3), (1, 2, 3, 4, 3, 0, 1)])
def test_every_row_needs_a_block(depths: tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match="7 rows"):
        MobileNetV2(depths=depths)
