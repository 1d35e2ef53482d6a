"""LambdaResNet: where the layers stand, what a place sees, how it is born."""
import math
from typing import Any

import pytest
import torch
from torch import nn

import vitrail
from vitrail.attention.lambda_layer import Lambda, LambdaGlobal, LambdaLocal
from vitrail.backbones.lambda_resnet import LambdaResNet, LambdaResNetT
from vitrail.backbones.resnet import Bottleneck
from vitrail.core.errors import ModelError
from vitrail.nn import AvgPool, Chain, Conv


def small(**changes: Any) -> LambdaResNet:
    torch.manual_seed(0)
    return LambdaResNet(**{"dim": 8, "depths": (1, 1, 2, 1), "keys": 4, "window": 5, **changes}).eval()


def timms(**changes: Any) -> LambdaResNetT:
    torch.manual_seed(0)
    return LambdaResNetT(**{"dim": 16, "image": 64, **changes}).eval()


def middles(model: nn.Module) -> list[nn.Module]:
    return [m.conv2 for m in model.modules() if isinstance(m, Bottleneck)]


@pytest.mark.parametrize("model", [small(), timms(), timms(window=0)], ids=["paper", "local", "global"])
@pytest.mark.parametrize("height, width", [(64, 96), (61, 35), (1, 1)])
def test_any_size_is_halved_upwards(model: LambdaResNet | LambdaResNetT, height: int, width: int) -> None:
    for found, channels, stride in zip(model(torch.randn(2, 3, height, width)).maps, model.channels, model.strides,
                                       strict=True):
        assert found.shape == (2, math.ceil(height / stride), math.ceil(width / stride), channels)


def test_no_three_by_three_convolution_is_left_in_the_papers() -> None:
    assert {m.kernel_size for m in small().modules() if isinstance(m, Conv)} == {(7, 7), (1, 1)}
    assert all(isinstance(m, Chain) for m in middles(small()))


def test_a_block_strides_by_a_mean_behind_its_layer() -> None:
    """Over 3 x 3 in the paper, 2 x 2 in timm's; what does not stride has none."""
    for model, size, strided in ((small(), 3, [1, 2, 4]), (timms(), 2, [6])):
        pools = [i for i, m in enumerate(middles(model)) if isinstance(getattr(m, "pool", None), AvgPool)]
        assert pools == strided
        assert {m.kernel_size for m in model.modules() if isinstance(m, AvgPool)} == {size}


@pytest.mark.parametrize("name, places", [("lambda_resnet_26t", ((), (), (1,), (0, 1))),
                                          ("lambda_resnet_50ts", ((), (3,), (1, 3, 5), (1,)))])
def test_timms_layers_stand_where_the_variant_says(name: str, places: tuple[tuple[int, ...], ...]) -> None:
    with torch.device("meta"):
        stages = vitrail.create_model(name).backbone.get_submodule("stages")
    found = tuple(tuple(j for j, block in enumerate(stage.children()) if any(isinstance(m, Lambda)
                                                                              for m in block.modules()))
                  for stage in stages.children())
    assert found == places


def test_a_window_of_none_is_a_table_over_the_map_of_each_block() -> None:
    layers = [m for m in timms(window=0, image=(64, 96)).modules() if isinstance(m, Lambda)]
    assert all(isinstance(m, LambdaGlobal) for m in layers)
    assert [m.old for m in layers if isinstance(m, LambdaGlobal)] == [(7, 11), (7, 11), (3, 5)]   # 4 x 6, before 2 x 3


def test_the_window_bounds_what_is_seen_of_places_but_not_what_is_summed_over_all() -> None:
    """With queries that are constant, the λ of places moves within the window alone; the λ of content anywhere."""
    torch.manual_seed(0)
    mixer = LambdaLocal(8, 2, window=5, keys=4).eval()
    x = torch.randn(1, 9, 9, 8, requires_grad=True)
    q, v = torch.randn(1, 9, 9, 2, 4), x.unflatten(-1, (1, 8))[..., :4]
    mixer.placed(q, v)[0, 4, 4].sum().backward()
    assert x.grad is not None
    seen = x.grad[0].abs().sum(-1) > 0
    square = torch.zeros(9, 9, dtype=torch.bool)
    square[2:7, 2:7] = True
    assert torch.equal(seen, square)
    x.grad = None
    mixer(x)[0, 4, 4].sum().backward()
    assert bool((x.grad.abs().sum(-1) > 0).all())


def test_each_stage_needs_its_tuple() -> None:
    with pytest.raises(ModelError, match="2 lambdas, 4 depths"):
        timms(lambdas=((), (1,)))


def test_the_size_is_the_papers() -> None:
    card = vitrail.card("lambda_resnet_50").variant
    assert card.figures.params / 1e6 == pytest.approx(card.figures.reported["params_m"], abs=0.05)


def test_born_as_published() -> None:
    torch.manual_seed(0)
    model = vitrail.create_model("lambda_resnet_50", depths=(1, 1, 1, 1)).backbone
    for name, part in model.named_modules():
        if isinstance(part, LambdaLocal):
            assert part.qkv.weight.std().item() == pytest.approx(part.qkv.in_features ** -0.5, rel=0.05)
            assert part.conv.weight.std().item() == pytest.approx(0.25, rel=0.05)          # keys ** -0.5
        elif isinstance(part, Conv):
            fan_out = part.weight[:, 0].numel()
            assert part.weight.std().item() == pytest.approx(math.sqrt(2 / fan_out), rel=0.05), name
        elif isinstance(part, Bottleneck):
            assert not part.norm3.weight.any() and bool((part.norm2.weight == 1).all())
