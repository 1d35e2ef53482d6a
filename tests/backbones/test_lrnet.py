"""LR-Nets: what a place sees, where they stride, who shares weights, their sizes, how they are born."""
import math
from typing import Any

import pytest
import torch
from torch import nn

import vitrail
from vitrail.attention.local_relation import LocalRelation
from vitrail.backbones.lrnet import LRNet, relation
from vitrail.backbones.resnet import Bottleneck
from vitrail.nn import Conv


def small(**changes: Any) -> LRNet:
    torch.manual_seed(0)
    return LRNet(**{"dim": 16, "inner": 24, "depths": (1, 1, 1, 1), "window": 3, **changes}).eval()


@pytest.mark.parametrize("height, width", [(64, 96), (61, 35), (1, 1)])
def test_any_size_is_halved_upwards(height: int, width: int) -> None:
    model = small()
    for found, channels, stride in zip(model(torch.randn(2, 3, height, width)).maps, model.channels, model.strides,
                                       strict=True):
        assert found.shape == (2, math.ceil(height / stride), math.ceil(width / stride), channels)


def test_no_convolution_is_wider_than_a_place() -> None:
    assert {m.kernel_size for m in small().modules() if isinstance(m, nn.Conv2d)} == {(1, 1)}


def test_eight_channels_share_weights_and_four_where_eight_do_not_divide() -> None:
    model = vitrail.create_model("lrnet_50", depths=(1, 1, 1, 1)).backbone
    layers = [m for m in model.modules() if isinstance(m, LocalRelation)]
    assert [m.out.in_features // m.heads for m in layers] == [8, 4, 8, 8, 8]
    assert [m.out.in_features for m in layers] == [64, 100, 200, 400, 800]
    assert {m.window for m in layers} == {7}


def test_a_stride_keeps_the_first_of_every_two_places() -> None:
    torch.manual_seed(0)
    layer, x = relation(16, 3, 2), torch.randn(1, 5, 6, 16)
    torch.testing.assert_close(layer(x), layer.get_submodule("mixer")(x)[:, [0, 2, 4]][:, :, [0, 2, 4]])


def test_the_stem_sees_two_relations_reach() -> None:
    """A maximum over 3 x 3 of places two apart, each over 7 x 7: 5 pixels either way."""
    stem = small(window=7).patch_embed
    image = torch.randn(1, 3, 32, 32, requires_grad=True)
    stem(image)[0, 4, 4].sum().backward()
    assert image.grad is not None
    seen = image.grad[0].abs().sum(0) > 0
    assert bool(seen[16, 16]) and int(seen.sum()) == int(seen[11:22, 11:22].sum())


def test_alike_neighbours_leave_the_prior_to_weigh() -> None:
    """Where queries and keys are equal everywhere the layer is a depthwise convolution by the prior's softmax."""
    torch.manual_seed(0)
    layer = LocalRelation(8, 2, window=3)
    nn.init.zeros_(layer.qk.weight)
    nn.init.zeros_(layer.qk.bias)
    x = torch.randn(1, 5, 5, 8)
    kernel = layer.prior().softmax(0).T.repeat_interleave(4, 0).view(8, 1, 3, 3)
    found = nn.functional.conv2d(x.movedim(-1, 1), kernel, groups=8).movedim(1, -1)
    torch.testing.assert_close(layer(x)[:, 1:-1, 1:-1], layer.out(found))


def test_sizes_are_the_reported_ones() -> None:
    for name, slack in (("lrnet_26", 0.15), ("lrnet_50", 0.1)):
        figures = vitrail.card(name).variant.figures
        assert figures.params / 1e6 == pytest.approx(figures.reported["params_m"], abs=slack), name


def test_groups_and_window_are_checked() -> None:
    with pytest.raises(ValueError, match="no middle"):
        small(window=4)


def test_born_as_a_resnet() -> None:
    torch.manual_seed(0)
    model = vitrail.create_model("lrnet_26", depths=(1, 1, 1, 1)).backbone
    for name, part in model.named_modules():
        if isinstance(part, Conv):
            assert part.weight.std().item() == pytest.approx(math.sqrt(2 / part.weight[:, 0].numel()), rel=0.1), name
        elif isinstance(part, Bottleneck):
            assert not part.norm3.weight.any()
