"""AA-ResNet: which channels attend, what they see where a block strides, how they are born."""
import math
from typing import Any

import pytest
import torch
from torch import nn

import vitrail
from vitrail.backbones.attention_augmented_resnet import AttentionAugmentedResNet, AugmentedConv, channels
from vitrail.backbones.resnet import Bottleneck
from vitrail.nn import AvgPool, Conv


def small(**changes: Any) -> AttentionAugmentedResNet:
    torch.manual_seed(0)
    return AttentionAugmentedResNet(**{"image": 64, "dim": 16, "depths": (1, 2, 1, 1), "heads": 2, **changes}).eval()


@pytest.mark.parametrize("height, width", [(64, 64), (61, 97), (1, 1)])
def test_any_size_is_halved_upwards(height: int, width: int) -> None:
    model = small()
    maps = model(torch.randn(2, 3, height, width)).maps
    for found, dim, stride in zip(maps, model.channels, model.strides, strict=True):
        assert found.shape == (2, math.ceil(height / stride), math.ceil(width / stride), dim)


def test_shares_are_fifths_and_tenths_with_twenty_keys_a_head_at_least() -> None:
    assert [channels(dim, 8) for dim in (128, 256, 512, 1280)] == [(160, 8), (160, 24), (160, 48), (256, 128)]


def test_the_first_stage_is_a_plain_resnets() -> None:
    kinds = [[isinstance(block.conv2, AugmentedConv) for block in stage.children()] for stage in small().stages]
    assert kinds == [[False], [True, True], [True], [True]]


def test_some_channels_see_everything_and_the_others_their_neighbours() -> None:
    torch.manual_seed(0)
    mixer, x = AugmentedConv(32, 2, grid=(6, 6), stride=1, halved=False), torch.randn(1, 6, 6, 32, requires_grad=True)
    values = channels(32, 2)[1]
    for part, count in ((slice(None, -values), 4), (slice(-values, None), 36)):
        x.grad = None
        mixer(x)[0, 0, 0, part].square().sum().backward()
        assert x.grad is not None and int((x.grad[0].abs().sum(-1) > 0).sum()) == count


def test_tables_are_of_the_map_that_attention_sees() -> None:
    """The second stage sees a map of half its own size, the others their own."""
    layers = [m for m in small(image=(64, 96)).modules() if isinstance(m, AugmentedConv)]
    assert [m.attention.position.grid for m in layers] == [(4, 6), (4, 6), (4, 6), (2, 3)]
    assert [(isinstance(m.pool, AvgPool), isinstance(m.halve, AvgPool)) for m in layers] == [
        (True, True), (False, True), (True, False), (True, False)]


def test_what_saw_a_halved_map_is_interpolated() -> None:
    """Attention that answers the same everywhere is the same everywhere behind it, at the convolution's size."""
    mixer = AugmentedConv(32, 2, grid=(3, 4), stride=1, halved=True)
    seen: list[torch.Size] = []
    mixer.attention.register_forward_hook(lambda module, args, out: seen.append(args[0].shape))
    nn.init.zeros_(mixer.attention.out.proj.weight)
    nn.init.ones_(mixer.attention.out.proj.bias)
    values = channels(32, 2)[1]
    far = mixer(torch.randn(1, 5, 7, 32))[..., -values:]
    assert seen == [(1, 3, 4, 32)] and far.shape == (1, 5, 7, values)
    torch.testing.assert_close(far, torch.ones_like(far))


@pytest.mark.parametrize("heads", [0, 32])
def test_heads_that_do_not_fit_are_refused(heads: int) -> None:
    with pytest.raises(ValueError, match="heads"):
        small(heads=heads)


def test_sizes_are_the_papers() -> None:
    for name in ("aa_resnet_50", "aa_resnet_101"):
        figures = vitrail.card(name).variant.figures
        assert figures.params / 1e6 == pytest.approx(figures.reported["params_m"], abs=0.05), name


def test_born_as_the_papers_code_is() -> None:
    torch.manual_seed(0)
    model = vitrail.create_model("aa_resnet_50", depths=(1, 1, 1, 1)).backbone
    for name, part in model.named_modules():
        if isinstance(part, Conv):
            assert part.weight.std().item() == pytest.approx(math.sqrt(2 / part.weight[:, 0].numel()), rel=0.05), name
        elif isinstance(part, AugmentedConv):
            kqv = part.attention.kqv
            assert kqv.weight.std().item() == pytest.approx(math.sqrt(2 / sum(kqv.weight.shape)), rel=0.03)
            assert not kqv.bias.any() and not part.attention.out.proj.bias.any()
            assert part.attention.position.rows.std().item() == pytest.approx(20 ** -0.5, rel=0.2)
        elif isinstance(part, Bottleneck):
            assert not part.norm3.weight.any()
