"""RegionViT: who hears whom, one attention for two looks, and what the released code does at the edges."""
import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import vitrail
from tests.backbones.made import noise
from vitrail.backbones import region_vit
from vitrail.backbones.region_vit import RegionalTokens, RegionalToLocal, RegionBlock, RegionViT, edges
from vitrail.core.errors import ExplainError, ModelError
from vitrail.nn import DropPath, Features, RelativeBias


def seeded(module: nn.Module) -> Any:
    """Noise in every weight, so that no zero or one hides what stands behind it."""
    with torch.no_grad():
        for i, p in enumerate(module.parameters()):
            p.copy_(noise(*p.shape, seed=i) * 0.3 + (p.ndim == 1))
    return module.eval()


def small(**changes: Any) -> Any:
    return seeded(RegionViT(**{"dim": 8, "depths": (2, 2), "heads": (2, 2), "window": 4, **changes}))


def test_a_local_token_hears_its_window_and_every_window_through_the_regions() -> None:
    """Of another window it hears all through that one's region, but only what the region heard the block before."""
    block, x, regions = seeded(RegionBlock(8, 2, 3, 2.0, 0.0)), noise(1, 6, 9, 8), noise(1, 2, 3, 8)
    x.requires_grad_()
    regions.requires_grad_()
    out, told = block((x, regions), None)
    own, far = torch.autograd.grad(out[0, 4, 1].square().sum(), (x, regions), retain_graph=True)
    touched = torch.zeros(6, 9, dtype=torch.bool)
    touched[3:6, 0:3] = True
    assert torch.equal(own[0].abs().sum(-1) > 0, touched) and (far.abs().sum(-1) > 0).all()
    own, far = torch.autograd.grad(told[0, 1, 0].square().sum(), (x, regions))
    assert torch.equal(own[0].abs().sum(-1) > 0, touched) and (far.abs().sum(-1) > 0).all()
    again, _ = block(block((x, regions), None), None)
    own, = torch.autograd.grad(again[0, 4, 1].square().sum(), x)
    assert (own.abs().sum(-1) > 0).all()


def test_one_attention_looks_twice_and_offsets_count_between_local_tokens_alone() -> None:
    mixer, x, regions = seeded(RegionalToLocal(8, 2, 3, 0.0)), noise(2, 6, 9, 8), noise(2, 2, 3, 8)
    heads = [p.shape for name, p in mixer.named_parameters() if "qkv" in name]
    assert heads == [(24, 8), (24,)]
    with torch.no_grad():
        before, r = mixer(x, regions, None), regions.flatten(1, 2)
        q, k, v = mixer.qkv(mixer.norm_regions(r))
        torch.testing.assert_close((q @ k.mT / 2).softmax(-1) @ v, mixer.attend(q, k, v))
        r = r + mixer.out(mixer.attend(q, k, v))
        window = torch.cat([r[:, 4:5], x[:, 3:6, 3:6].flatten(1, 2)], 1)        # the region in row 1, column 1
        q, k, v = mixer.qkv(mixer.norm(window))
        bias = torch.zeros(2, 10, 10)
        bias[:, 1:, 1:] = mixer.bias()
        expected = window + mixer.out((q @ k.mT / 2 + bias).softmax(-1) @ v)
        torch.testing.assert_close(before[:, 4], expected)


def test_the_answer_is_the_mean_of_normed_regional_tokens() -> None:
    model, image = small(), noise(2, 3, 48, 64)
    head = model.make_head(5)
    with torch.no_grad():
        features = model(image)
        assert features.prefix.shape == (2, 2 * 2, 16)      # 3 x 4 regions of 16 pixels, once halved
        x, regions = model.local_tokens(image), model.regional_tokens(image)
        for stage in model.stages:
            x, regions = stage(x, regions)
        pooled = model.norm(regions).mean((1, 2))
        torch.testing.assert_close(head(features), head.linear(pooled))
        spoilt = Features(maps=tuple(m * torch.nan for m in features.maps), prefix=features.prefix)
        assert torch.equal(head(spoilt), head(features))


@pytest.mark.parametrize("height, width, grid, corner", [
    (32, 32, (2, 2), (0, 0)), (30, 20, (2, 2), (1, 6)), (32, 20, (3, 2), (8, 6)), (20, 32, (2, 3), (6, 8))])
def test_regions_stand_around_the_middle(height: int, width: int, grid: tuple[int, int],
                                         corner: tuple[int, int]) -> None:
    """As released: a side that fits gets a whole region of zeros, half on either side, where the other one does not."""
    tokens, image = RegionalTokens(16, 4), noise(1, 3, height, width)
    whole = torch.zeros(1, 3, 16 * grid[0], 16 * grid[1])
    whole[:, :, corner[0]:corner[0] + height, corner[1]:corner[1] + width] = image
    expected = F.conv2d(whole, tokens.proj.weight, tokens.proj.bias, 16)
    torch.testing.assert_close(tokens(image), expected.permute(0, 2, 3, 1))


def test_edges_hide_what_fills_up_a_window() -> None:
    size, like = 3, torch.zeros(1)
    assert edges(size, (2, 3), 6, 9, like) is None
    mask = edges(size, (2, 3), 5, 7, like)              # one row and two columns of zeros
    assert mask is not None and mask.shape == (6, 10, 10)
    seen = (mask == 0).unflatten(0, (2, 3))
    row, column = torch.arange(9) // 3, torch.arange(9) % 3

    def pairs(real: Tensor) -> Tensor:
        real = torch.cat([torch.ones(1, dtype=torch.bool), real])
        return real[:, None] & real[None]
    assert seen[0, :2].all() and torch.equal(seen[0, 2], pairs(column < 1))
    assert torch.equal(seen[1, 0], pairs(row < 2)) and torch.equal(seen[1, 1], pairs(row < 2))
    # as released: either edge's, where both edges' would be right
    assert torch.equal(seen[1, 2], pairs(row < 2) | pairs(column < 1))


def test_zeros_beyond_one_edge_change_nothing() -> None:
    """A window that is filled up in the last row answers as its real tokens alone would."""
    block, x, regions = seeded(RegionBlock(8, 2, 4, 2.0, 0.0)), noise(1, 6, 8, 8), noise(1, 2, 2, 8)
    mask = edges(4, (2, 2), 6, 8, x)
    with torch.no_grad():
        first, second = F.pad(x, (0, 0, 0, 0, 0, 2)), torch.cat([x, noise(1, 2, 8, 8, seed=1)], 1)
        (a, ra), (b, rb) = block((first, regions), mask), block((second, regions), mask)
    torch.testing.assert_close(a[:, :6, :4], b[:, :6, :4])
    torch.testing.assert_close(ra[:, :, 0], rb[:, :, 0])
    assert not torch.allclose(a[:, 4:6, 4:], b[:, 4:6, 4:]), "the corner's zeros are seen, as released"


@pytest.mark.parametrize("window", [3, 4, 7])
def test_the_released_table_of_offsets_turns_around(window: int) -> None:
    """There: from query to key, plus half a window, negative ones from the end."""
    n, fold = 2 * window - 1, region_vit._bias(window)
    theirs, ours = noise(2, n * n), RelativeBias(window, 2)
    ours.table.data.copy_(fold.ours(theirs))
    square, found = theirs.unflatten(1, (n, n)), ours()
    for query in range(window ** 2):
        for key in range(window ** 2):
            dy, dx = key // window - query // window, key % window - query % window
            assert torch.equal(found[:, query, key], square[:, dy + window // 2, dx + window // 2])
    assert torch.equal(fold.theirs(ours.table.data), theirs)


def test_positions_follow_the_first_block_by_one_convolution_for_both_streams() -> None:
    stage = small(peg=True).stages[0]
    x, regions = noise(1, 8, 8, 8), noise(1, 2, 2, 8)
    without = copy.deepcopy(stage)
    without.peg.weight.data.zero_()
    with torch.no_grad():
        a, b = stage.first((x, regions), None)
        peg = stage.peg.weight
        a, b = (t + F.conv2d(t.permute(0, 3, 1, 2), peg, padding=1, groups=8).permute(0, 2, 3, 1) for t in (a, b))
        for found, expected in zip(stage(x, regions), stage.rest((a, b), None), strict=True):
            torch.testing.assert_close(found, expected)
        assert not torch.allclose(stage(x, regions)[0], without(x, regions)[0])


def test_stochastic_depth_skips_single_windows_and_single_images_regions() -> None:
    block, x, regions = seeded(RegionBlock(8, 2, 4, 2.0, 0.5)).train(), noise(1, 16, 16, 8), noise(1, 4, 4, 8)
    torch.manual_seed(0)
    with torch.no_grad():
        kept = (block((x, regions), None)[0] == x).all(-1)[0]
    kept = kept.unflatten(0, (4, 4)).unflatten(2, (4, 4)).transpose(1, 2).flatten(2)        # (4, 4, n)
    assert torch.equal(kept.all(-1), kept.any(-1)) and 0 < kept.all(-1).sum() < 16
    drops = [m.p for m in RegionViT(depths=(1, 2), heads=(2, 2), drop_path=0.4).modules() if isinstance(m, DropPath)]
    assert drops == pytest.approx([0, 0, 0.2, 0.2, 0.4, 0.4])


@pytest.mark.parametrize("convs, first, last", [(3, 9, 23), (1, 13, 20)])
def test_local_tokens_overlap(convs: int, first: int, last: int) -> None:
    tokens, image = region_vit.LocalTokens(8, convs).eval(), noise(1, 3, 33, 34).requires_grad_()
    found = tokens(image)
    assert found.shape == (1, 9, 9, 8)
    found[0, 4, 4].square().sum().backward()
    assert image.grad is not None
    rows = (image.grad[0].abs().sum((0, 2)) > 0).nonzero().flatten()
    assert (rows.min(), rows.max()) == (first, last)


@pytest.mark.parametrize("changes, says", [({"convs": 2}, "convs=2"), ({"dim": 6}, "dim=6"),
                                           ({"heads": (2,)}, "heads"), ({"depths": (0, 2)}, "depths")])
def test_settings_that_do_not_fit_are_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ModelError, match=says):
        small(**changes)


def test_explanations_by_attention_say_why_not() -> None:
    model = vitrail.create_model("regionvit_ti", depths=(1, 1, 1, 1), classes=3)
    with pytest.raises(ExplainError, match="the regions, and then"):
        vitrail.explain(model, noise(32, 32, 3).mul(50).byte().numpy(), method="rollout")


def test_born_as_published() -> None:
    torch.manual_seed(0)
    model = region_vit.regionvit_ti(depths=(1, 1, 1, 1))
    for part in model.modules():
        if isinstance(part, nn.Linear):
            assert part.weight.std().item() == pytest.approx(0.02, rel=0.05) and not part.bias.any()
        if isinstance(part, RelativeBias):
            assert part.table.std().item() == pytest.approx(0.02, rel=0.15)
