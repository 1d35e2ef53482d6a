"""ViT_C: what the stem sees, where it halves, how it is born, and what it takes the place of."""
from typing import Any

import pytest
import torch
from torch import nn

import vitrail
from tests.backbones.made import noise, seeded
from vitrail.backbones import early_conv
from vitrail.core.errors import ModelError
from vitrail.nn import Mlp, PatchEmbed, SelfAttention


@pytest.mark.parametrize("widths, strides, sees", [((4, 8, 16, 32), [2, 2, 2, 2], 31),
                                                   ((4, 8, 8, 16, 16, 32), [2, 2, 1, 2, 1, 2], 55)])
def test_a_width_that_grows_halves_the_map(widths: tuple[int, ...], strides: list[int], sees: int) -> None:
    stem = seeded(early_conv.ConvStem(widths, 8))
    convs = [m for m in stem.modules() if isinstance(m, nn.Conv2d)]
    assert [c.stride[0] for c in convs] == [*strides, 1]
    assert [c.kernel_size[0] for c in convs] == [3] * len(widths) + [1]
    for conv in convs:
        nn.init.constant_(conv.weight, 0.1)         # all positive, so that no ReLU hides what a token sees
    image = torch.rand(1, 3, 112, 112).requires_grad_()
    stem(image)[0, 3, 3].sum().backward()
    assert image.grad is not None
    rows, columns = (image.grad[0].abs().sum(0) > 0).nonzero().unbind(1)
    assert int(rows.max() - rows.min()) + 1 == int(columns.max() - columns.min()) + 1 == sees


def test_patches_see_their_own_pixels_alone() -> None:
    tokenize = early_conv.vit_p_1gf(depth=1).patch_embed
    image = noise(1, 3, 64, 64).requires_grad_()
    tokenize(image)[0, 2, 1].sum().backward()
    assert image.grad is not None
    expected = torch.zeros(64, 64, dtype=torch.bool)
    expected[32:48, 16:32] = True
    assert torch.equal(image.grad[0].abs().sum(0) > 0, expected)


def test_only_the_last_convolution_has_a_bias_and_no_norm() -> None:
    stem = early_conv.vit_c_1gf(depth=1).patch_embed
    names = {name.rpartition("patch_embed.")[2] for name, _ in stem.named_parameters()}
    assert names == {*(f"convs.{i}.{part}" for i in range(4) for part in ("conv.weight", "norm.weight", "norm.bias")),
                     "last.weight", "last.bias"}


@pytest.mark.parametrize("size", ["1gf", "4gf", "18gf", "36gf"])
def test_the_stem_costs_one_block(size: str) -> None:
    patches, convs = (vitrail.card(f"vit_{kind}_{size}").variant.settings() for kind in "pc")
    assert convs["depth"] == patches["depth"] - 1 and convs["stem"] and not patches["stem"]
    assert {k: v for k, v in convs.items() if k not in ("depth", "stem")} == \
           {k: v for k, v in patches.items() if k not in ("depth", "stem")}


def test_the_small_ones_have_narrower_mlps() -> None:
    ratios = {size: vitrail.card(f"vit_c_{size}").variant.settings()["mlp_ratio"] for size in ("1gf", "4gf", "18gf")}
    assert ratios == {"1gf": 3, "4gf": 3, "18gf": 4}


@pytest.mark.parametrize("stem", [(8, 16, 32), (8, 16, 32, 64, 128), (8, 8, 8, 8)])
def test_a_stem_that_is_no_patch_is_refused(stem: tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match="patch=16"):
        early_conv.EarlyConv(stem=stem, dim=8, heads=2, depth=1)


def test_born_as_published() -> None:
    def about(value: float, rel: float = 0.05) -> Any:
        return pytest.approx(value, rel=rel)
    model = early_conv.vit_c_4gf(depth=1)
    stem: Any = model.patch_embed
    for conv in (m for m in stem.convs.modules() if isinstance(m, nn.Conv2d)):
        assert conv.weight.std().item() == about((2 / conv.out_channels) ** 0.5)
    assert stem.last.weight.std().item() == about((1 / 384) ** 0.5) and not stem.last.bias.any()
    assert not model.prefix.tokens.any() and model.position.table.std().item() == about(0.02)
    for part in model.modules():
        if isinstance(part, SelfAttention):         # one matrix of three, so wider than three of their own
            assert part.qkv.proj.weight.abs().max().item() == about((6 / (384 + 3 * 384)) ** 0.5, 0.01)
            assert part.out.proj.weight.abs().max().item() == about(384 ** -0.5, 0.01) and not part.out.proj.bias.any()
        if isinstance(part, Mlp):
            assert part.fc1.weight.abs().max().item() == about((6 / (384 + 1152)) ** 0.5, 0.01)
            assert part.fc2.bias.std().item() == about(1e-6, 0.15)
    patches = early_conv.vit_p_4gf(depth=1).patch_embed
    assert isinstance(patches, PatchEmbed)             # cut at two, far beyond the deviation
    assert patches.proj.weight.std().item() == about((3 * 16 * 16) ** -0.5)
    head: Any = model.make_head(10)
    assert not head.linear.weight.any() and not head.linear.bias.any()
