"""ResNet-RS: what it changed of a ResNet, how it is born, what is dropped."""
import math
from typing import Any

import pytest
import torch
from torch import nn

import vitrail
from vitrail.backbones.resnet import Bottleneck
from vitrail.backbones.resnet_rs import ResNetRS, pooled_shortcut
from vitrail.nn import BatchNorm, Conv, DropPath, SqueezeExcite


def small(**changes: Any) -> ResNetRS:
    torch.manual_seed(0)
    return ResNetRS(**{"dim": 8, "depths": (1, 2, 2, 1), **changes}).eval()


def blocks(model: nn.Module) -> list[Bottleneck]:
    return [m for m in model.modules() if isinstance(m, Bottleneck)]


@pytest.mark.parametrize("height, width", [(64, 96), (61, 35), (1, 1)])
def test_odd_maps_are_halved_upwards(height: int, width: int) -> None:
    model = small()
    for found, channels, stride in zip(model(torch.randn(2, 3, height, width)).maps, model.channels, model.strides,
                                       strict=True):
        assert found.shape == (2, math.ceil(height / stride), math.ceil(width / stride), channels)


def test_the_stem_has_no_maximum_and_no_large_window() -> None:
    stem = small().patch_embed
    convs = [m for m in stem.modules() if isinstance(m, Conv)]
    assert [(c.kernel_size, c.stride, c.out_channels) for c in convs] == [
        ((3, 3), (2, 2), 4), ((3, 3), (1, 1), 4), ((3, 3), (1, 1), 8), ((3, 3), (2, 2), 8)]
    assert not any(isinstance(m, nn.MaxPool2d) for m in stem.modules())


def test_the_way_past_a_stride_reads_every_place() -> None:
    """A strided 1 x 1 convolution reads one place in four; the mean before it reads all."""
    past, x = pooled_shortcut(4, 6, 2).eval(), torch.randn(1, 5, 6, 4, requires_grad=True)
    past(x).sum().backward()
    assert x.grad is not None and bool((x.grad != 0).all())


def test_a_place_beyond_the_edge_does_not_count_in_the_mean() -> None:
    past = pooled_shortcut(3, 4, 2).eval()
    x = torch.randn(1, 3, 3, 3)
    corner = past(x)[0, 1, 1]
    torch.testing.assert_close(corner, past(x[:, 2:, 2:].expand(1, 2, 2, 3).contiguous())[0, 0, 0])


def test_the_excitation_weighs_the_branch_and_not_the_way_past() -> None:
    block = blocks(small())[1]
    nn.init.normal_(block.norm3.weight)
    assert isinstance(block.squeeze, SqueezeExcite) and block.squeeze.reduce.out_channels == block.norm1.num_features
    x = torch.randn(1, 4, 4, block.conv1.in_channels)
    nn.init.constant_(block.squeeze.expand.bias, -1e4)          # the gate is shut
    assert torch.equal(block(x), block.shortcut(x).relu())


def test_stochastic_depth_is_one_rate_a_stage() -> None:
    rates = [[m.p for m in stage.modules() if isinstance(m, DropPath)] for stage in small(drop_path=0.5).stages]
    assert [pytest.approx([p] * n) for p, n in ((0.2, 1), (0.3, 2), (0.4, 2), (0.5, 1))] == rates


@pytest.mark.parametrize("name, rate", [("resnet_rs_50", 0.25), ("resnet_rs_420", 0.4)])
def test_the_readout_drops_channels_in_training_alone(name: str, rate: float) -> None:
    model = vitrail.create_model(name, dim=32, depths=(1, 1, 1, 1))
    features = model.backbone(torch.randn(2, 3, 64, 64))
    pool = model.head.get_submodule("pool")
    assert torch.equal(pool(features), features.maps[-1].mean((1, 2)))
    features.maps[-1].abs_().add_(1)
    torch.manual_seed(0)
    lost = (pool.train()(features) == 0).float().mean().item()
    assert lost == pytest.approx(rate, abs=0.05)


def test_born_as_published() -> None:
    """Convolutions from a normal cut at two deviations, of variance 1 / fan-in; the last scale of a branch is zero."""
    torch.manual_seed(0)
    model = vitrail.create_model("resnet_rs_50", depths=(1, 1, 1, 1))
    for name, part in model.named_modules():
        if isinstance(part, Conv):
            std = part.weight[0].numel() ** -0.5
            assert part.weight.std().item() == pytest.approx(std, rel=0.06), name
            assert part.weight.abs().max() <= 2.28 * std, name
            assert part.bias is None or not part.bias.any()
        elif isinstance(part, BatchNorm):
            assert (part.weight == (0 if name.endswith("norm3") else 1)).all() and not part.bias.any(), name
        elif isinstance(part, nn.Linear):
            assert part.weight.std().item() == pytest.approx(0.01, rel=0.05) and not part.bias.any()
