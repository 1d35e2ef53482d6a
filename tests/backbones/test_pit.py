"""PiT: overlapping patches, pools between stages, and tokens that take another way down."""
from typing import Any

import pytest
import torch
from torch import nn

from tests.backbones.made import noise, seeded
from vitrail.backbones import pit
from vitrail.core.errors import ModelError
from vitrail.nn import DropPath


def small(**changes: Any) -> pit.PiT:
    return seeded(pit.PiT(**{"image": 40, "patch": 8, "dim": 8, "depths": (1, 1, 1), "heads": (1, 2, 4), **changes}))


def test_the_maps_of_the_published_sizes() -> None:
    assert pit.pit_ti.build(dim=8, heads=(1, 1, 1)).grids(224, 224) == ((27, 27), (14, 14), (7, 7))
    assert pit.pit_b.build(dim=8, heads=(1, 1, 1), patch=14).grids(224, 224) == ((31, 31), (16, 16), (8, 8))


@pytest.mark.parametrize("height, width", [(40, 40), (5, 64), (41, 97), (12, 9)])
def test_maps_are_as_told_and_no_pixel_is_cut(height: int, width: int) -> None:
    model, image = small(), noise(1, 3, height, width).requires_grad_()
    features = model(image)
    assert tuple(tuple(m.shape[1:3]) for m in features.maps) == model.grids(height, width)
    features.maps[0].square().sum().backward()
    assert image.grad is not None and bool((image.grad[0].abs().sum(0) > 0).all())


def test_neighbouring_patches_share_half_of_their_pixels() -> None:
    tokenize, image = seeded(pit.PiT(patch=8, dim=8, heads=(1, 1, 1), image=40)).patch_embed, noise(1, 40, 40, 3)
    image.requires_grad_()
    tokenize(image)[0, 2, 3].sum().backward()
    assert image.grad is not None
    rows, columns = (image.grad[0].abs().sum(-1) > 0).nonzero().unbind(1)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (8, 15, 12, 19)


def test_a_pool_keeps_channels_apart_and_places_near() -> None:
    pool, x, tokens = seeded(pit.Pool(4)), noise(1, 7, 6, 4).requires_grad_(), noise(1, 2, 4).requires_grad_()
    places, widened = pool(x, tokens)
    assert places.shape == (1, 4, 3, 8) and widened.shape == (1, 2, 8)
    (near,) = torch.autograd.grad(places[0, 1, 2, 5], x, retain_graph=True)
    reached = near[0] != 0
    assert reached[1:4, 3:6, 2].all() and reached.sum() == 9
    assert torch.autograd.grad(places.sum(), tokens, allow_unused=True, retain_graph=True) == (None,)
    assert torch.autograd.grad(widened.sum(), x, allow_unused=True) == (None,)


def test_only_the_tokens_are_normed_at_the_end() -> None:
    model, image = small(tokens=2), noise(1, 3, 40, 40)
    before = model(image)
    with torch.no_grad():
        model.norm.weight.mul_(2)
        model.norm.bias.mul_(2)
    after = model(image)
    assert after.prefix is not None and before.prefix is not None and after.prefix.shape == (1, 2, 32)
    torch.testing.assert_close(after.prefix, 2 * before.prefix)
    assert all(torch.equal(a, b) for a, b in zip(after.maps, before.maps, strict=True))


def test_positions_are_for_places_alone_and_enter_once() -> None:
    model = small(tokens=2)
    assert model.position.table.shape == (1, 81, 8)
    assert not any("position" in name for name, _ in model.stages.named_parameters())


def test_the_answer_of_two_heads_is_their_mean() -> None:
    model = small(tokens=2)
    head, features = seeded(model.make_head(5)), model(noise(2, 3, 40, 40))
    a, b = head.separate(features)          # type: ignore[operator]
    torch.testing.assert_close(head(features), (a + b) / 2)
    assert not torch.allclose(a, b)


def test_the_last_block_is_skipped_a_little_less_than_told() -> None:
    """The published code divides by the number of blocks, not by one less."""
    rates = [m.p for m in small(depths=(1, 2, 1), drop_path=0.4).modules() if isinstance(m, DropPath)]
    assert rates == pytest.approx([r for p in (0.0, 0.1, 0.2, 0.3) for r in (p, p)])


def test_born_as_published() -> None:
    model = pit.pit_xs(depths=(1, 1, 1))
    for table in (model.position.table, model.prefix.tokens):
        assert table.std().item() == pytest.approx(0.02, rel=0.15)
    for linear in (m for m in model.modules() if isinstance(m, nn.Linear)):     # torch's own: uniform
        bound = linear.in_features ** -0.5
        assert linear.weight.abs().max().item() == pytest.approx(bound, rel=0.01)
        assert linear.weight.std().item() == pytest.approx(bound / 3 ** 0.5, rel=0.03)


@pytest.mark.parametrize("changes", [{"patch": 7}, {"patch": 0}, {"heads": (1, 2)}])
def test_settings_that_do_not_fit_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match="patch=|depths"):
        small(**changes)


def test_an_image_without_a_patch_is_refused() -> None:
    with pytest.raises(ModelError, match="holds no patch of 8 x 8"):
        small()(noise(1, 3, 4, 40))
