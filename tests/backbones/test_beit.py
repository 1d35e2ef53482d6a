"""BEiT: offsets with three entries for the class token, no bias of keys, layer scale, and a norm behind the mean."""
import math
from typing import Any

import pytest
import torch
from torch import nn

from tests.backbones.made import noise, seeded
from vitrail.backbones import beit
from vitrail.core.errors import CheckpointError
from vitrail.nn import Mlp, Scale
from vitrail.ops.positions import resample_positions

GRIDS = [(3, 3), (2, 5), (1, 4), (1, 1)]


def small(**changes: Any) -> beit.BEiT:
    return seeded(beit.BEiT(**{"image": 24, "patch": 8, "dim": 16, "depth": 2, "heads": 2, **changes}))


@pytest.mark.parametrize("h, w", GRIDS)
def test_offsets_are_counted_row_first_and_the_class_token_has_its_own(h: int, w: int) -> None:
    index = beit.class_offsets((h, w), torch.zeros(1))
    places = [(y, x) for y in range(h) for x in range(w)]
    offsets = (2 * h - 1) * (2 * w - 1)
    assert index.shape == (h * w + 1, h * w + 1)
    for i, (y, x) in enumerate(places):
        for j, (v, u) in enumerate(places):
            assert index[1 + i, 1 + j] == (y - v + h - 1) * (2 * w - 1) + x - u + w - 1
    assert (index[0, 1:] == offsets).all() and (index[1:, 0] == offsets + 1).all() and index[0, 0] == offsets + 2
    assert set(index.unique().tolist()) == set(range(offsets + 3))


def test_a_bias_of_keys_would_change_nothing() -> None:
    mix, x, grid = seeded(beit.BiasedAttention(8, 2, (2, 3))), noise(2, 7, 8), (2, 3)
    q, k, v = mix.qkv(x)
    q, v = (t + b.view(2, 1, 4) for t, b in ((q, mix.q_bias), (v, mix.v_bias)))
    moved = mix.out(mix.attend(q, k + noise(2, 1, 4, seed=9), v, mix.bias(grid)))
    torch.testing.assert_close(moved, mix(x, grid))
    assert not torch.allclose(mix.out(mix.attend(q + 1, k, v, mix.bias(grid))), mix(x, grid), atol=1e-3)


def test_it_is_the_equation() -> None:
    mix, x, grid = seeded(beit.BiasedAttention(8, 2, (2, 2))), noise(1, 5, 8), (2, 2)
    bias = torch.cat([mix.q_bias, torch.zeros(8), mix.v_bias])
    q, k, v = (x @ mix.qkv.proj.weight.T + bias).view(5, 3, 2, 4).permute(1, 2, 0, 3)
    scores = q @ k.mT / 2 + mix.bias.table[beit.class_offsets(grid, x)].permute(2, 0, 1)
    torch.testing.assert_close(mix(x, grid)[0], mix.out.proj((scores.softmax(-1) @ v).transpose(0, 1).flatten(1)))


def test_another_size_at_run_time_is_the_model_of_that_size_with_fitted_tables() -> None:
    model, image = small(), noise(1, 3, 32, 40)
    other = small(image=(32, 40))
    state = model.state_dict()
    for i in range(2):
        name = f"blocks.{i}.mix.fn.bias.table"
        state[name] = other.blocks[i].mix.fn.bias.fit(state[name])
    other.load_state_dict(state)
    torch.testing.assert_close(model(image).maps[0], other(image).maps[0])


def test_only_the_offsets_of_a_fitted_table_are_resampled() -> None:
    bias, table = beit.ClassRelativeBias((4, 6), 2), noise(5 * 5 + 3, 2)
    fitted = bias.fit(table)
    assert torch.equal(fitted[-3:], table[-3:])
    assert torch.equal(fitted[:-3], resample_positions(table[None, :-3], (7, 11), old=(5, 5))[0])


@pytest.mark.parametrize("shape", [(25, 2), (16 + 3, 2), (28, 3), (28,), (2, 2)])
def test_a_table_that_is_none_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(CheckpointError, match="does not fit"):
        beit.ClassRelativeBias((4, 4), 2).fit(torch.zeros(shape))


def test_places_are_told_apart_by_offsets_alone() -> None:
    """There is no other position: without the biases of places, their order does not matter to the answer."""
    model, order = small(), torch.randperm(9, generator=torch.Generator().manual_seed(3))
    for block in model.blocks:
        nn.init.zeros_(block.mix.fn.bias.table[:-3])
    image = noise(1, 3, 24, 24)
    patches = image.unfold(2, 8, 8).unfold(3, 8, 8).flatten(2, 3)[:, :, order]              # (1, 3, 9, 8, 8)
    mixed = patches.unflatten(2, (3, 3)).permute(0, 1, 2, 4, 3, 5).flatten(4, 5).flatten(2, 3)
    head = seeded(model.make_head(5))
    torch.testing.assert_close(head(model(mixed)), head(model(image)))
    for block in model.blocks:
        block.mix.fn.bias.table.data[:-3] = noise(25, 2)
    assert not torch.allclose(head(model(mixed)), head(model(image)), atol=1e-3)


def test_the_answer_is_read_off_the_normed_mean_of_the_patches() -> None:
    model = small()
    head, features = seeded(model.make_head(5)), model(noise(2, 3, 24, 24))
    norm = head.pool.norm               # type: ignore[union-attr]
    expected = head.linear(norm(features.maps[0].flatten(1, 2).mean(1)))        # type: ignore[operator]
    torch.testing.assert_close(head(features), expected)
    assert norm.eps == 1e-6


@pytest.mark.parametrize("variant, scale", [(beit.beit_b16, 0.1), (beit.beit_l16, 1e-5)])
def test_born_as_published(variant: Any, scale: float) -> None:
    model = variant(depth=3)
    assert all(bool((m.gamma == scale).all()) for m in model.modules() if isinstance(m, Scale))
    for i, block in enumerate(model.blocks):
        for linear in (block.mix.fn.qkv.proj, block.mlp.fn.fc1):
            assert linear.weight.std().item() == pytest.approx(0.02, rel=0.02)
        for linear in (block.mix.fn.out.proj, block.mlp.fn.fc2):        # the deeper, the smaller
            assert linear.weight.std().item() == pytest.approx(0.02 / math.sqrt(2 * (i + 1)), rel=0.02)
        assert not block.mix.fn.bias.table.any() and not block.mix.fn.q_bias.any() and not block.mix.fn.v_bias.any()
        assert isinstance(block.mlp.fn, Mlp) and not block.mlp.fn.fc1.bias.any()
    head = model.make_head(1000)
    assert head.linear.weight.std().item() == pytest.approx(2e-5, rel=0.02) and not head.linear.bias.any()


def test_the_index_that_the_authors_files_hold_is_left_out() -> None:
    assert beit.LAYOUT.rename("blocks.3.attn.relative_position_index") is None
