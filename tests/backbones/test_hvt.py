"""HVT: what a pooling keeps and leaves out, which images it can take, and what explains it."""
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import vitrail
from tests.backbones.made import noise
from vitrail.backbones.hvt import HVT, PoolRow, hvt_s_3, mean_prefix, pooled, scale_hvt_ti_4
from vitrail.core.errors import CheckpointError, ExplainError, ModelError


def small(**changes: object) -> HVT:
    torch.manual_seed(0)
    settings = {"image": 96, "dim": 16, "depth": 4, "heads": 2, "pool": 2, **changes}
    return HVT(**settings).eval()  # type: ignore[arg-type]


def test_rows_get_shorter_as_published() -> None:
    """196, 97, 48, 23, 11 tokens, and the pooling comes behind the first block of every stage."""
    lengths = [196]
    for _ in range(4):
        lengths.append(pooled(lengths[-1]))
    assert lengths == [196, 97, 48, 23, 11]
    for make, poolings, blocks in ((scale_hvt_ti_4, 4, [3, 3, 3, 2]), (hvt_s_3, 3, [4, 4, 3])):
        model = make(dim=16, heads=2)
        assert [len(stage.blocks) for stage in model.stages] == blocks and len(model.first) == 1
        assert [stage.pool.table.shape[1] for stage in model.stages] == lengths[1:1 + poolings]
        assert model(noise(1, 3, 224, 224)).prefix.shape == (1, lengths[poolings], 16)


def test_a_pooling_is_the_largest_of_three_in_each_channel() -> None:
    torch.manual_seed(0)
    part, x = PoolRow(4, 5), noise(2, 9, 5)
    out = part(x) - part.table
    for i in range(4):
        torch.testing.assert_close(out[:, i], x[:, 2 * i:2 * i + 3].max(1).values)


def test_neighbours_in_a_row_cross_the_edge_of_the_map_and_the_last_token_is_left_out() -> None:
    """Of 4 x 3 patches, the second pooled token sees the end of the first line and the beginning of the second."""
    part = PoolRow(5, 1)
    reached = torch.zeros(5, 12)
    for seed in range(20):
        values = noise(1, 12, 1, seed=seed).requires_grad_()
        for i, out in enumerate(part(values)[0]):
            reached[i] += torch.autograd.grad(out.sum(), values, retain_graph=True)[0][0, :, 0]
    assert (reached[1] > 0).nonzero()[:, 0].tolist() == [2, 3, 4]
    assert not reached[:, 11].any() and reached[:, :11].any(0).all()


def test_the_answer_is_the_mean_of_what_is_left() -> None:
    model = vitrail.create_model("hvt_ti_1", classes=3, depth=2, dim=16, heads=2)
    features = model.backbone(noise(1, 3, 64, 64))
    assert features.prefix.shape == (1, 7, 16)
    torch.testing.assert_close(model(noise(1, 3, 64, 64)), model.head.linear(features.prefix.mean(1)))
    torch.testing.assert_close(mean_prefix(features), features.prefix.mean(1))


def test_the_map_is_that_of_the_first_block_and_the_answer_depends_on_it() -> None:
    model, image = small(), noise(1, 3, 96, 96)
    features = model(image)
    x = model.position(model.patch_embed(image).flatten(1, 2), (6, 6))
    assert torch.equal(features.maps[0].flatten(1, 2), model.first(x))
    (grad,) = torch.autograd.grad(features.prefix.square().sum(), features.maps[0])
    assert grad.any()


@pytest.mark.parametrize("length", [3, 8, 20])
def test_positions_of_other_rows_are_resampled_along_the_row(length: int) -> None:
    part = PoolRow(8, 2)
    part.table.data = torch.linspace(-1, 1, 8)[None, :, None].expand(1, 8, 2).clone()
    found = part.resampled(part.table, length)[0, :, 0]
    middle = (torch.arange(length) + 0.5) * 8 / length - 0.5                # of each place, in places of the table
    expected = middle.clamp(0, 7) / 3.5 - 1
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_weights_of_another_size_bring_their_positions() -> None:
    theirs, ours = (vitrail.create_model("hvt_ti_1", depth=2, image=image) for image in (224, 96))
    found = vitrail.load_weights(ours, theirs.state_dict(), resize=True)
    assert found.resized == ("backbone.position.table", "backbone.stages.0.pool.table")
    with pytest.raises(CheckpointError, match="does not fit"):
        PoolRow(8, 2).fit(torch.zeros(1, 8, 3))


def test_too_few_tokens_are_refused_when_built_and_when_asked() -> None:
    with pytest.raises(ModelError, match="too short to be pooled"):
        small(image=32, depth=8)
    with pytest.raises(ModelError, match="too short to be pooled"):
        small(depth=8)(noise(1, 3, 32, 32))
    with pytest.raises(ModelError, match="at least one block"):
        small(pool=0)


def test_grad_cam_explains_at_the_last_map_and_methods_over_rows_say_why_not() -> None:
    model = vitrail.create_model("scale_hvt_ti_4", classes=3, dim=16, heads=2, image=96)
    torch.manual_seed(1)
    nn.init.normal_(model.head.linear.weight)
    picture = np.random.default_rng(0).integers(0, 255, (96, 96, 3), dtype=np.uint8)
    maps = [vitrail.explain(model, picture, method="gradcam", target=t).map for t in range(3)]
    assert all(m.shape == maps[0].shape for m in maps) and any(np.ptp(m) > 0 for m in maps)
    for method in ("attention", "rollout", "relevance"):
        with pytest.raises(ExplainError, match="gradcam"):
            vitrail.explain(model, picture, method=method)


def test_born_as_published() -> None:
    torch.manual_seed(0)
    model = hvt_s_3(depth=5)
    for linear in (m for m in model.modules() if isinstance(m, nn.Linear)):
        assert linear.weight.std().item() == pytest.approx(0.02, rel=0.06) and not linear.bias.any()
    for table in (model.position.table, *(stage.pool.table for stage in model.stages)):
        assert table.std().item() == pytest.approx(0.02, rel=0.1)
    assert {m.eps for m in model.modules() if isinstance(m, nn.LayerNorm)} == {1e-6}


def test_an_odd_image_is_padded_below_and_to_the_right() -> None:
    model, image = small(), noise(1, 3, 90, 83)
    assert model(image).maps[0].shape == (1, 6, 6, 16)
    assert torch.equal(model(image).prefix, model(F.pad(image, (0, 13, 0, 6))).prefix)
