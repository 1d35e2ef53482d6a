"""Stand-alone attention ResNets: what a place sees, where they stride, the values of the stem, how they are born."""
import math
from typing import Any

import pytest
import torch
from torch import nn

import vitrail
from vitrail.attention.stand_alone import StandAlone
from vitrail.backbones.resnet import Bottleneck
from vitrail.backbones.sasa_resnet import AttentionStem, BlockAttention, SasaResNet
from vitrail.nn import AvgPool, Conv


def small(**changes: Any) -> SasaResNet:
    torch.manual_seed(0)
    return SasaResNet(**{"dim": 16, "depths": (1, 1, 1, 1), "heads": 2, "window": 3, **changes}).eval()


@pytest.mark.parametrize("attention_stem", [False, True])
@pytest.mark.parametrize("height, width", [(64, 96), (61, 35), (1, 1)])
def test_any_size_is_halved_upwards(attention_stem: bool, height: int, width: int) -> None:
    model = small(attention_stem=attention_stem)
    for found, channels, stride in zip(model(torch.randn(2, 3, height, width)).maps, model.channels, model.strides,
                                       strict=True):
        assert found.shape == (2, math.ceil(height / stride), math.ceil(width / stride), channels)


def test_full_attention_leaves_no_convolution_wider_than_a_place() -> None:
    kernels = [{m.kernel_size for m in small(attention_stem=full).modules() if isinstance(m, nn.Conv2d)}
               for full in (False, True)]
    assert kernels == [{(7, 7), (1, 1)}, {(1, 1)}]


def test_a_block_strides_by_a_mean_behind_its_attention() -> None:
    blocks = [m for m in small().modules() if isinstance(m, Bottleneck)]
    assert [isinstance(b.conv2.get_submodule("pool"), AvgPool) for b in blocks] == [False, True, True, True]
    assert all(isinstance(b.conv2.get_submodule("mixer"), StandAlone) for b in blocks)


def test_the_mean_at_an_odd_edge_is_of_the_places_that_are_there() -> None:
    block = [m for m in small().modules() if isinstance(m, Bottleneck)][1]
    seen: list[torch.Tensor] = []
    block.conv2.get_submodule("mixer").register_forward_hook(lambda module, args, out: seen.append(out))
    found = block.conv2(torch.randn(1, 5, 5, 32))
    torch.testing.assert_close(found[0, 2, 2], seen[0][0, 4, 4])


def test_the_stem_sees_its_block_alone() -> None:
    stem = AttentionStem(16).eval()
    image = torch.randn(1, 3, 12, 12, requires_grad=True)
    stem(image)[0, 1, 1].sum().backward()
    assert image.grad is not None
    seen = image.grad[0].abs().sum(0) > 0
    assert bool(seen[4:8, 4:8].any()) and int(seen.sum()) == int(seen[4:8, 4:8].sum())


def test_a_value_depends_on_the_place_in_the_block() -> None:
    """A block of one colour has one query and one key; without the mixtures all its outputs were equal, and equal to
    those of one matrix. A mixture that wins everywhere is that one matrix."""
    torch.manual_seed(0)
    attention, x = BlockAttention(3, 8, 2, window=4), torch.randn(1, 1, 1, 3).expand(1, 4, 4, 3)
    matrices = attention.values.weight.unflatten(0, (4, 8))
    each = matrices @ x[0, 0, 0]                                                        # (4, 8)
    p = torch.stack([torch.stack([(attention.rows[a] + attention.columns[b]) @ nu for nu in attention.mixtures])
                     for a in range(4) for b in range(4)]).softmax(-1)
    torch.testing.assert_close(attention(x)[0, 2, 3], (p @ each).mean(0))
    with torch.no_grad():
        attention.rows.fill_(1)
        attention.columns.fill_(0)
        attention.mixtures.copy_(torch.tensor([0., 50., 0., 0.])[:, None].expand(4, 4))
    torch.testing.assert_close(attention(x)[0, 0, 0], each[1])


def test_sizes_are_the_papers() -> None:
    for name in vitrail.list_models("sasa*"):
        figures = vitrail.card(name).variant.figures
        assert figures.params / 1e6 == pytest.approx(figures.reported["params_m"], abs=0.1), name
        assert 2 * figures.gflops == pytest.approx(figures.reported["gflops"], rel=0.12), name


def test_born_as_a_resnet_and_its_successors() -> None:
    torch.manual_seed(0)
    model = vitrail.create_model("sasa_resnet_26_full", depths=(1, 1, 1, 1)).backbone
    for name, part in model.named_modules():
        if isinstance(part, Conv):
            assert part.weight.std().item() == pytest.approx(math.sqrt(2 / part.weight[:, 0].numel()), rel=0.05), name
        elif isinstance(part, StandAlone):
            deviation = (2 * part.rows.shape[-1]) ** -0.5
            assert part.rows.std().item() == pytest.approx(deviation, rel=0.2)
        elif isinstance(part, Bottleneck):
            assert not part.norm3.weight.any()
