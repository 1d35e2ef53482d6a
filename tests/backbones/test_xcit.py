"""XCiT: channels attend to channels, neighbours talk by convolution, and the oddities of the released class layers."""
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import vitrail
from tests.backbones.made import noise, seeded
from vitrail.backbones import xcit
from vitrail.attention.cross_covariance import CrossCovariance
from vitrail.backbones.cait import ClassAttention
from vitrail.backbones.xcit import ClassBlock
from vitrail.core.card import Variant
from vitrail.core.errors import ModelError
from vitrail.nn import Channels, DropPath, Scale


def small(**changes: int | float | bool) -> Any:
    settings = {"dim": 16, "depth": 2, "heads": 2, "patch": 8, **changes}
    return seeded(xcit.XCiT(**settings))  # type: ignore[arg-type]


def test_tokens_may_come_in_any_order() -> None:
    mixer, x = seeded(CrossCovariance(12, 3)), noise(2, 4, 5, 12)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(1))
    mixed = mixer(x.flatten(1, 2)[:, order].unflatten(1, (4, 5)))
    torch.testing.assert_close(mixed.flatten(1, 2), mixer(x).flatten(1, 2)[:, order])


@pytest.mark.parametrize("grid", [(2, 2), (3, 7)])
def test_the_map_is_between_channels_whatever_the_number_of_tokens(grid: tuple[int, int]) -> None:
    mixer, seen = seeded(CrossCovariance(12, 3)), []
    assert isinstance(mixer.groups, Channels)
    mixer.attend.fused = False
    mixer.attend.softmax.register_forward_hook(lambda module, args, out: seen.append(out))
    mixer(noise(2, *grid, 12))
    assert [s.shape for s in seen] == [(2, 3, 4, 4)]


def test_it_is_the_papers_equation() -> None:
    mixer, x = seeded(CrossCovariance(12, 3)), noise(1, 3, 5, 12)
    q, k, v = (t[0] for t in mixer.qkv(x.flatten(1, 2)))        # (H, N, D)
    heads = []
    for head in range(3):
        q_hat, k_hat = (t / t.square().sum(0).sqrt() for t in (q[head], k[head]))     # each channel of unit length
        heads.append(v[head] @ (k_hat.T @ q_hat * mixer.temperature[head]).softmax(0))
    torch.testing.assert_close(mixer(x)[0].flatten(0, 1), mixer.out.proj(torch.cat(heads, 1)))


def test_the_length_of_queries_and_keys_does_not_matter() -> None:
    mixer, x = seeded(CrossCovariance(12, 3)), noise(1, 3, 5, 12)
    before = mixer(x)
    with torch.no_grad():
        mixer.qkv.proj.weight[:24] *= 5
        mixer.qkv.proj.bias[:24] *= 5
    torch.testing.assert_close(mixer(x), before)
    with torch.no_grad():
        mixer.temperature.mul_(2)
    assert not torch.allclose(mixer(x), before, atol=1e-3)


def test_local_patch_interaction_sees_two_places_away_and_one_channel() -> None:
    mixer = seeded(xcit.local_patch_interaction(6))
    x = noise(1, 7, 7, 6).requires_grad_()
    mixer(x)[0, 3, 3, 2].backward()
    assert x.grad is not None
    touched = x.grad[0] != 0
    square = torch.zeros(7, 7, dtype=torch.bool)
    square[1:6, 1:6] = True
    assert torch.equal(touched[..., 2], square) and touched.sum() == 25


def test_only_the_class_token_asks() -> None:
    mixer, x, seen = seeded(ClassAttention(12, 3)), noise(2, 6, 12), []
    mixer.attend.fused = False
    mixer.attend.softmax.register_forward_hook(lambda module, args, out: seen.append(out))
    assert mixer(x).shape == (2, 1, 12) and seen[0].shape == (2, 3, 1, 6)


@pytest.mark.parametrize("norm_tokens", [False, True])
def test_patch_tokens_are_doubled_in_the_class_blocks(norm_tokens: bool) -> None:
    """As released: the second residual adds the patch tokens to themselves."""
    block, x = seeded(ClassBlock(8, 2, 4.0, 1.0, norm_tokens)), noise(2, 5, 8)
    after = x + block.scale1(torch.cat([block.mix(block.norm1(x)), block.norm1(x)[:, 1:]], 1))
    normed = block.norm2(after)
    out = block(x)
    torch.testing.assert_close(out[:, 1:], 2 * (normed if norm_tokens else after)[:, 1:])
    # ... and the class token's second residual starts from its norm, not from itself
    torch.testing.assert_close(out[:, :1], normed[:, :1] + block.scale2(block.mlp(normed[:, :1])))


def test_a_patch_token_of_a_class_block_sees_itself_alone() -> None:
    block, x = seeded(ClassBlock(8, 2, 4.0, 1.0, True)), noise(1, 5, 8).requires_grad_()
    for token, expected in ((3, [3]), (0, [0, 1, 2, 3, 4])):
        (grad,) = torch.autograd.grad(block(x)[0, token].square().sum(), x)
        assert (grad[0].abs().sum(-1) > 0).nonzero().flatten().tolist() == expected


def test_the_class_token_joins_after_all_layers_of_channels() -> None:
    model, shapes = small(), []
    for part in (*model.blocks, *model.class_blocks):
        part.register_forward_hook(lambda module, args, out: shapes.append(tuple(out.shape[1:-1])))
    model(noise(1, 3, 24, 40))
    assert shapes == [(3, 5), (3, 5), (16,), (16,)]


def test_the_released_order_of_residuals() -> None:
    """The third norm of the release belongs to the second residual."""
    block = small().blocks[0]
    assert [name for name, _ in block.named_children()] == ["xca", "lpi", "mlp"]
    for table in (xcit.TIMM, xcit.OFFICIAL):
        parts = [table.rename(f"blocks.0.{name}") for i in (1, 3, 2) for name in (f"norm{i}.weight", f"gamma{i}")]
        assert parts == [f"backbone.blocks.0.{part}.{name}" for part in ("xca", "lpi", "mlp")
                         for name in ("norm.weight", "scale.gamma")]
    x = noise(1, 3, 3, 16)
    expected = x
    for part in (block.xca, block.lpi, block.mlp):
        expected = expected + part.scale(part.fn(part.norm(expected)))
    assert torch.equal(block(x), expected)


@pytest.mark.parametrize("grid", [(1, 1), (3, 5), (14, 9)])
def test_positions_are_waves_of_the_share_of_the_image_passed(grid: tuple[int, int]) -> None:
    position, (h, w) = xcit.FourierPosition(4, waves=6), grid
    table = position.table(h, w, torch.zeros(1))
    assert table.shape == (1, h, w, 12)
    for y in range(h):
        for x in range(w):
            expected = []
            for turn in ((y + 1) / h, (x + 1) / w):
                for i in range(0, 6, 2):
                    angle = 2 * math.pi * turn / 10_000 ** (i / 6)
                    expected += [math.sin(angle), math.cos(angle)]
            # the release divides by the size plus 1e-6, which turns a wave by 6.3e-6 at most
            torch.testing.assert_close(table[0, y, x], torch.tensor(expected), atol=1e-5, rtol=0)
    maps = noise(2, h, w, 4)
    expected_maps = maps + F.linear(table, position.project.weight[:, :, 0, 0], position.project.bias)
    torch.testing.assert_close(position(maps), expected_maps)


@pytest.mark.parametrize("patch, widths", [(16, [3, 2, 4, 8, 16]), (8, [3, 4, 8, 16]), (4, [3, 8, 16])])
def test_patches_are_halvings_of_the_image(patch: int, widths: list[int]) -> None:
    tokenize = xcit.ConvPatches(patch, 16).eval()
    assert [m.weight.shape[1] for m in tokenize.modules() if isinstance(m, nn.Conv2d)] == widths[:-1]
    for h, w in ((32, 48), (33, 17), (5, 100)):
        assert tokenize(noise(1, 3, h, w)).shape == (1, -(-h // patch), -(-w // patch), 16)


@pytest.mark.parametrize("patch, dim", [(12, 16), (1, 16), (0, 16), (16, 20)])
def test_a_patch_that_cannot_be_halved_down_to_one_is_refused(patch: int, dim: int) -> None:
    with pytest.raises(ModelError, match="patch"):
        xcit.ConvPatches(patch, dim)


def test_one_rate_of_stochastic_depth_for_all_layers_and_none_for_the_class() -> None:
    model = small(depth=3, drop_path=0.1)
    assert [m.p for m in model.blocks.modules() if isinstance(m, DropPath)] == [0.1] * 9
    assert not any(isinstance(m, DropPath) for m in model.class_blocks.modules())


@pytest.mark.parametrize("variant, scale", [(xcit.xcit_small_12_p16, 1.0), (xcit.xcit_tiny_24_p8, 1e-5)])
def test_born_as_published(variant: Variant[Any], scale: float) -> None:
    model = variant(depth=2)
    scales = [m.gamma for m in model.modules() if isinstance(m, Scale)]
    assert len(scales) == 2 * 3 + 2 * 2 and all(bool((g == scale).all()) for g in scales)
    for linear in (m for m in model.modules() if isinstance(m, nn.Linear)):
        assert linear.weight.std().item() == pytest.approx(0.02, rel=0.05) and not linear.bias.any()
    for block in model.blocks:
        assert (block.xca.fn.temperature == 1).all()
    assert model.prefix.tokens.std().item() == pytest.approx(0.02, rel=0.15)


def test_only_the_smallest_norms_the_class_token_alone() -> None:
    names = vitrail.list_models("xcit*")
    assert len(names) == 14
    alone = {name for name in names if not vitrail.card(name).variant.settings()["norm_tokens"]}
    assert alone == {"xcit_nano_12_p16", "xcit_nano_12_p8"}


def test_releases_at_384_pixels_are_tensors_of_the_same_model() -> None:
    releases = {w.name: w for w in xcit.xcit_nano_12_p16.weights}
    assert set(releases) == {f"{who}{how}" for who, how in (
        ("fb", "_in1k"), ("fb", "_dist_in1k"), ("fb", "_dist_in1k_384"), ("official", ""), ("official", "_dist"),
        ("official", "_dist_384"))}
    assert releases["official_dist_384"].source.endswith("/xcit_nano_12_p16_384_dist.pth")
    assert releases["fb_dist_in1k_384"].image == 384 and releases["fb_dist_in1k"].image == 224
    assert "image" not in xcit.xcit_nano_12_p16.settings()           # no tensor depends on it
