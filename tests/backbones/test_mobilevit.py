"""MobileViT: what a pixel can see, what happens to maps that patches do not divide, how it is born."""
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import vitrail
from vitrail.backbones.mobilenet_v2 import InvertedResidual
from vitrail.backbones.mobilevit import MobileViT, MobileViTBlock, mobilevit_s, mobilevit_xxs, resize
from vitrail.core.errors import ModelError
from vitrail.nn import Block, Conv, DropPath, GroupedAttention, LayerNorm, Stack, Strided
from vitrail.testing.noise import fill_
from vitrail.weights import keys_of


def small(**changes: Any) -> MobileViT:
    torch.manual_seed(0)
    return MobileViT(**{"dims": (8, 8, 12, 16, 20), "inner": (16, 24, 32), "depths": (1, 1, 1, 1, 1), **changes}).eval()


def reached(mixer: nn.Module, x: Tensor, at: tuple[int, int]) -> Tensor:
    """(H, W): which places of x move the output at one place."""
    x = x.requires_grad_()
    mixer(x)[0, at[0], at[1]].sum().backward()
    assert x.grad is not None
    return x.grad[0].abs().sum(-1) > 0


@pytest.mark.parametrize("height, width", [(64, 96), (61, 35), (1, 1)])
def test_maps_have_the_widths_and_strides_they_are_said_to_have(height: int, width: int) -> None:
    model = small()
    assert model.channels == (8, 8, 12, 16, 80) and model.strides == (2, 4, 8, 16, 32)
    for found, channels, stride in zip(model(torch.randn(2, 3, height, width)).maps, model.channels, model.strides,
                                       strict=True):
        assert found.shape == (2, math.ceil(height / stride), math.ceil(width / stride), channels)


def test_a_pixel_attends_to_the_same_place_of_every_patch() -> None:
    mixer = GroupedAttention(8, 2, Strided(stride=2))
    fill_(mixer)
    found = reached(mixer, torch.randn(1, 6, 8, 8), (3, 4))
    expected = torch.zeros(6, 8, dtype=torch.bool)
    expected[1::2, ::2] = True
    assert torch.equal(found, expected)


def test_with_the_convolution_before_it_a_pixel_sees_the_whole_map() -> None:
    """Section 3.1: the convolution looks over the patch, and the attention over the patches."""
    mixer = GroupedAttention(8, 2, Strided(stride=2))
    block = MobileViTBlock(6, Stack([mixer]), 8, 2, nn.SiLU())
    fill_(block)
    assert reached(block.eval(), torch.randn(1, 8, 10, 6), (3, 4)).all()
    for weight in (mixer.qkv.proj.weight, mixer.qkv.proj.bias):     # without attention it sees what convolutions reach
        nn.init.zeros_(weight)
    expected = torch.zeros(8, 10, dtype=torch.bool)
    expected[2:5, 3:6] = True
    assert torch.equal(reached(block, torch.randn(1, 8, 10, 6), (3, 4)), expected)


@torch.no_grad()
def test_nothing_tells_where_a_patch_stands() -> None:
    mixer, x = GroupedAttention(8, 2, Strided(stride=2)), torch.randn(1, 6, 8, 8)
    fill_(mixer)
    torch.testing.assert_close(mixer(x.roll((2, 4), (1, 2))), mixer(x).roll((2, 4), (1, 2)))


@torch.no_grad()
def test_a_map_that_patches_do_not_divide_is_resized_for_the_transformer_and_back() -> None:
    block = MobileViTBlock(6, Stack([GroupedAttention(8, 2, Strided(stride=2))]), 8, 2, nn.SiLU()).eval()
    fill_(block)
    seen: list[Tensor] = []
    block.blocks.register_forward_hook(lambda part, args, out: seen.append(args[0]))
    x = torch.randn(1, 5, 6, 6)
    y = block(x)
    entered = block.enter(block.local(x))
    assert seen[0].shape == (1, 6, 6, 8) and y.shape == x.shape
    torch.testing.assert_close(seen[0], resize(entered, 6, 6))
    # rows between: the first stays, the second is what lies at 3/4 of the way from the first row to the second
    torch.testing.assert_close(seen[0][:, 1], 0.25 * entered[:, 0] + 0.75 * entered[:, 1])
    block(torch.randn(1, 6, 8, 6))
    assert seen[1].shape == (1, 6, 8, 8)


def test_a_map_that_needs_no_resizing_is_left_alone() -> None:
    x = torch.randn(1, 4, 6, 2)
    assert resize(x, 4, 6) is x


def test_it_expands_twice_or_four_times_and_uses_silu() -> None:
    for model, ratio in ((mobilevit_xxs(), 2), (mobilevit_s(), 4)):
        for block in (m for m in model.modules() if isinstance(m, InvertedResidual)):
            conv = block.widen.get_submodule("conv")
            assert isinstance(conv, Conv) and conv.out_channels == ratio * conv.in_channels
        assert not any(isinstance(m, nn.ReLU | nn.ReLU6 | nn.GELU) for m in model.modules())
    assert mobilevit_xxs().channels[-1] == 320 and MobileViT(dims=(8, 8, 8, 8, 400)).channels[-1] == 960


def test_it_is_born_as_the_authors_configure_it() -> None:
    torch.manual_seed(0)
    model = mobilevit_s()
    conv = model.last.get_submodule("conv")
    mixer = next(m for m in model.modules() if isinstance(m, GroupedAttention))
    assert isinstance(conv, Conv)
    assert conv.weight.std().item() == pytest.approx(math.sqrt(2 / 640), rel=0.02)
    assert mixer.qkv.proj.weight.std().item() == pytest.approx(0.02, rel=0.02) and not mixer.qkv.proj.bias.any()
    linear = model.make_head(100).get_submodule("linear")
    assert isinstance(linear, nn.Linear)
    assert linear.weight.std().item() == pytest.approx(0.02, rel=0.02) and not linear.bias.any()
    norms = [m for m in model.modules() if isinstance(m, nn.LayerNorm)]
    assert len(norms) == 2 * 9 + 3 and {m.eps for m in norms} == {1e-5} != {LayerNorm(1).eps}


def test_the_authors_tensors_read_blue_first() -> None:
    model = vitrail.create_model("mobilevit_xxs")
    table = keys_of(model, "official")
    assert table is not None
    here = model.state_dict()
    there = table.restore(here)
    assert torch.equal(there["conv_1.block.conv.weight"], here["backbone.patch_embed.conv.weight"][:, [2, 1, 0]])
    back = table.translate(there)
    assert back.keys() == here.keys() and all(torch.equal(back[name], here[name]) for name in here)


def test_branches_and_readout_drop_as_published() -> None:
    for model, p in ((mobilevit_xxs(drop_path=0.24), 0.05), (mobilevit_s(drop_path=0.24), 0.1)):
        blocks = [m for m in model.modules() if isinstance(m, Block)]
        assert {m.p for b in blocks for m in b.modules() if isinstance(m, nn.Dropout)} == {p}
        last = [m.p for m in blocks[-1].modules() if isinstance(m, DropPath)]
        assert last == pytest.approx([0.24, 0.24])
        dropout = model.make_head(10).get_submodule("pool.dropout")
        assert isinstance(dropout, nn.Dropout) and dropout.p == 0.1


@pytest.mark.parametrize("changes, said", [
    (dict(inner=(16, 24)), "inner"), (dict(depths=(1, 1, 1)), "depths"), (dict(depths=(1, 1, 0, 1, 1)), "at least one"),
    (dict(dims=(8,) * 4, inner=(8, 8), depths=(1,) * 4), "five stages"), (dict(window=0), "0 x 0")])
def test_settings_that_do_not_fit_together_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ModelError, match=said):
        small(**changes)


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(ModelError, match="3 heads"):
        vitrail.create_model("mobilevit_xxs", heads=3)
