"""PVT: reduced keys in all stages but the last, where the class token joins; two epsilons; tables a stage."""
from typing import Any

import pytest
import torch
from torch import nn

import vitrail
from tests.backbones.made import noise
from vitrail.backbones import pvt
from vitrail.core.errors import CheckpointError, ModelError
from vitrail.nn import DropPath, PositionTable, Reduced, ReducedAttention, SelfAttention


def small(**changes: Any) -> pvt.PVT:
    torch.manual_seed(0)
    return pvt.PVT(**{"image": 64, "dims": (16, 32), "depths": (1, 1), "heads": (1, 2), "mlp_ratios": (2, 2),
                      "reductions": (4, 1), **changes}).eval()


def test_keys_are_reduced_to_the_size_of_the_last_map() -> None:
    """8, 4, 2 and 1: at any size of image every stage has as many keys as the last one has places."""
    model = vitrail.create_model("pvt_tiny", image=64)
    with torch.inference_mode(), vitrail.record(model) as seen:
        model(noise(1, 3, 64, 96))
    assert [layer.weights.shape[1:] for layer in seen.layers] == [
        (heads, n, keys) for heads, n, keys in ((1, 384, 6), (2, 96, 6), (5, 24, 6), (8, 7, 7)) for _ in range(2)]
    assert [isinstance(layer.groups, Reduced) for layer in seen.layers] == [True] * 6 + [False] * 2


def test_the_class_token_joins_the_last_stage_alone() -> None:
    model, image = small(), noise(2, 3, 64, 64)
    before = model(image)
    with torch.no_grad():
        model.last.prefix.tokens += noise(1, 1, 32)
    after = model(image)
    assert torch.equal(before.maps[0], after.maps[0]) and not torch.equal(before.maps[1], after.maps[1])
    assert before.prefix is not None and before.prefix.shape == (2, 1, 32)
    assert isinstance(model.stages[0].blocks[0].mix.fn, ReducedAttention)
    assert isinstance(model.last.blocks[0].mix.fn, SelfAttention)


def test_norms_of_patches_and_of_reduced_maps_have_the_larger_epsilon() -> None:
    model = vitrail.create_model("pvt_small", image=32)
    for name, part in model.named_modules():
        if isinstance(part, nn.LayerNorm):
            wide = name.endswith(("down.norm", "reduce.norm"))
            assert part.eps == (1e-5 if wide else 1e-6), name


def test_each_stage_has_positions_of_its_own_grid() -> None:
    model = vitrail.create_model("pvt_tiny", image=(64, 100))
    tables = [part for part in model.modules() if isinstance(part, PositionTable)]
    assert [(t.grid, t.prefix) for t in tables] == [((16, 25), 0), ((8, 13), 0), ((4, 7), 0), ((2, 4), 1)]
    assert len({id(t.table) for t in tables}) == 4


def test_tables_of_another_size_are_fitted_stage_by_stage() -> None:
    theirs = vitrail.create_model("pvt_tiny", image=64).state_dict()
    model = vitrail.create_model("pvt_tiny", image=96)
    with pytest.raises(CheckpointError, match="resize=True"):
        vitrail.load_weights(model, theirs)
    found = vitrail.load_weights(model, theirs, resize=True)
    assert found.resized == (*(f"backbone.stages.{i}.position.table" for i in range(3)), "backbone.last.position.table")
    assert torch.equal(model.state_dict()["backbone.last.position.table"][:, :1],
                       theirs["backbone.last.position.table"][:, :1]), "the class token has no place"


def test_born_as_published() -> None:
    model = vitrail.create_model("pvt_tiny", image=64)
    for part in model.modules():
        if isinstance(part, nn.Linear):
            assert part.weight.std().item() == pytest.approx(0.02, rel=0.06) and not part.bias.any()
        elif isinstance(part, PositionTable):
            assert part.table.std().item() == pytest.approx(0.02, rel=0.06)
    assert model.backbone.last.prefix.tokens.std().item() == pytest.approx(0.02, rel=0.15)


def test_stochastic_depth_grows_over_all_stages() -> None:
    drops = [m.p for m in small(depths=(2, 3), drop_path=0.4).modules() if isinstance(m, DropPath)]
    assert drops == pytest.approx([p for p in (0, 0.1, 0.2, 0.3, 0.4) for _ in range(2)])


@pytest.mark.parametrize("changes, told", [(dict(reductions=(4, 2)), "class token"), (dict(heads=(1, 2, 4)), "3 heads"),
                                           (dict(heads=(3, 2)), "3 heads"), (dict(depths=()), "0 depths")])
def test_settings_that_do_not_go_together_are_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ModelError, match=told):
        small(**changes)
