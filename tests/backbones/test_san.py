"""SAN: what its places see, what its stages do to a map, how it is born, and the release's oddities."""
from typing import Any, TypeVar

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import vitrail
from tests.backbones.made import noise
from vitrail.attention.vector import VectorPairwise, VectorPatchwise
from vitrail.backbones.san import SAN
from vitrail.core.errors import ModelError
from vitrail.nn import DropPath, MaxPool, Residual
from vitrail.weights import keys_of


M = TypeVar("M", bound=nn.Module)


def seeded(module: M) -> M:
    with torch.no_grad():
        for i, p in enumerate(module.parameters()):
            p.add_(noise(*p.shape, seed=i), alpha=0.1)
    return module.eval()


def small(**changes: Any) -> SAN:
    return seeded(SAN(**{"dim": 32, "depths": (1, 1, 1), "window": (3, 3, 5), **changes}))


@pytest.mark.parametrize("pairwise, mixer", [(True, VectorPairwise), (False, VectorPatchwise)])
def test_widths_of_the_paper(pairwise: bool, mixer: type[VectorPairwise | VectorPatchwise]) -> None:
    """Relations have a sixteenth of a stage's width, values a quarter, and 8 channels share a weight (table 1)."""
    with torch.device("meta"):
        model = SAN(pairwise=pairwise)
    assert model.channels == (64, 256, 512, 1024, 2048) and model.strides == (2, 4, 8, 16, 32)
    found = [(m.phi.out_channels, m.beta.out_channels, m.heads, m.window) for m in model.modules()
             if isinstance(m, mixer)]
    stages = [(4, 16, 2, 3), (16, 64, 8, 7), (32, 128, 16, 7), (64, 256, 32, 7), (128, 512, 64, 7)]
    assert found == [stage for stage, depth in zip(stages, (2, 1, 2, 4, 1), strict=True) for _ in range(depth)]


def test_a_block_norms_before_it_attends_and_adds_what_it_found() -> None:
    block, x = small().stages[1].blocks[0], noise(2, 5, 6, 128)
    assert isinstance(block, Residual)
    bn = block.norm.norm
    normed = F.batch_norm(x.permute(0, 3, 1, 2), bn.running_mean, bn.running_var, bn.weight, bn.bias)
    torch.testing.assert_close(block(x), x + block.fn(normed.relu().permute(0, 2, 3, 1)))


@pytest.mark.parametrize("pairwise", [True, False])
def test_a_place_sees_its_window_of_squares(pairwise: bool) -> None:
    """One stage: a place is the maximum of 2 x 2 pixels, and looks one place away."""
    model = small(depths=(1,), window=(3,), pairwise=pairwise)
    seen = torch.zeros(16, 16, dtype=torch.bool)
    for seed in range(12):                                  # a maximum passes one pixel's gradient on at a time
        image = noise(1, 3, 16, 16, seed=seed).requires_grad_()
        model(image).maps[0][0, 3, 4].square().sum().backward()
        assert image.grad is not None
        seen |= image.grad[0].abs().sum(0) > 0
    square = torch.zeros(16, 16, dtype=torch.bool)
    square[4:10, 6:12] = True
    assert torch.equal(seen, square)


def test_patches_tell_their_places_apart_and_pairs_only_by_position() -> None:
    """Neighbours that change places change nothing for pairs that know no position; a patch's weights do change."""
    x = noise(1, 3, 3, 32)
    swapped = x.clone()
    swapped[0, 0, 0], swapped[0, 2, 1] = x[0, 2, 1], x[0, 0, 0]
    for pairwise, same in ((True, True), (False, False)):
        mixer = small(pairwise=pairwise).stages[0].blocks[0].fn
        if pairwise:
            nn.init.zeros_(mixer.place.weight)
        middle = [mixer(t)[0, 1, 1] for t in (x, swapped)]
        assert torch.allclose(*middle, atol=1e-6) == same


def test_an_odd_map_keeps_its_last_row() -> None:
    x = noise(1, 5, 7, 4)
    halved = MaxPool(2, 2)(x)
    assert halved.shape == (1, 3, 4, 4)
    torch.testing.assert_close(halved[0, 1, 2], x[0, 2:4, 4:6].amax((0, 1)))
    torch.testing.assert_close(halved[0, 2, 3], x[0, 4, 6])
    even = noise(1, 6, 8, 4)                                # where nothing is odd it is the published pooling
    torch.testing.assert_close(MaxPool(2, 2)(even).permute(0, 3, 1, 2), F.max_pool2d(even.permute(0, 3, 1, 2), 2))


def test_maps_smaller_than_the_window_are_mirrored_as_often_as_it_takes() -> None:
    features = small(window=(7, 7, 7))(noise(1, 3, 16, 9))
    assert [m.shape[1:3] for m in features.maps] == [(8, 5), (4, 3), (2, 2)]
    assert all(m.isfinite().all() for m in features.maps)


def test_the_bias_of_the_places_carries_nothing() -> None:
    """The release has one; only differences of places enter, and it cancels in them."""
    with torch.device("meta"):
        pair, patch = (vitrail.create_model(f"san10_{kind}wise") for kind in ("pair", "patch"))
    table = keys_of(pair, "official")
    assert table is not None and table.rename("module.layer0.0.sam.conv_p.bias") is None
    assert table.rename("module.layer0.0.sam.conv_p.weight") == "backbone.stages.0.blocks.0.fn.place.weight"
    assert not any("place" in name for name in patch.state_dict()), "patches need no places"


def test_born_as_torch_makes_layers() -> None:
    """As the official code, which initialises nothing: uniform within 1 / sqrt(fan-in)."""
    torch.manual_seed(0)
    for part in SAN(depths=(1, 1), window=(3, 7)).modules():
        if isinstance(part, nn.Conv2d) and part.weight.numel() > 500:
            bound = part.weight[0].numel() ** -0.5
            assert part.weight.abs().max().item() <= bound
            assert part.weight.std().item() == pytest.approx(bound / 3 ** 0.5, rel=0.1)
        if isinstance(part, nn.BatchNorm2d):
            assert bool((part.weight == 1).all()) and not part.bias.any()


def test_stochastic_depth_grows_over_all_blocks() -> None:
    rates = [m.p for m in small(depths=(1, 2, 2), drop_path=0.4).modules() if isinstance(m, DropPath)]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])


@pytest.mark.parametrize("changes, said", [({"window": (3, 3)}, "each stage"), ({"dim": 40}, "go together"),
                                           ({"share": 3}, "go together"), ({"share": 0}, "go together")])
def test_settings_that_do_not_fit_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ModelError, match=said):
        small(**changes)
    with pytest.raises(ValueError, match="odd"):
        small(window=(3, 4, 5))
