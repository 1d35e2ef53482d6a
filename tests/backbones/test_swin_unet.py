"""Swin-Unet: down by merging, up by expanding, joined at every size by what went into the blocks on the way down."""
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import vitrail
from tests.backbones.made import noise, seeded
from vitrail.backbones.swin import PatchMerging
from vitrail.backbones.swin_unet import PatchExpanding, SwinUnet, UpStage
from vitrail.core.errors import ModelError
from vitrail.nn import DropPath, RelativeBias


def small(**changes: object) -> Any:
    settings = {"dim": 8, "depths": (2, 1, 2), "heads": (1, 2, 4), "window": 4, **changes}
    return seeded(SwinUnet(**settings))     # type: ignore[arg-type]


def test_expanding_lays_the_four_parts_of_a_token_out_row_by_row() -> None:
    up = PatchExpanding(4)
    up.norm = nn.Identity()                 # type: ignore[assignment]
    x = noise(1, 2, 3, 4)
    parts, wide = up.expand(x)[0, 1, 2].view(2, 2, 2), up(x)
    assert wide.shape == (1, 4, 6, 2)
    assert torch.equal(wide[0, 2:, 4:], parts)


def test_expanding_undoes_merging_of_the_same_matrix() -> None:
    down, up = PatchMerging(2), PatchExpanding(4)
    down.norm, up.norm = nn.Identity(), nn.Identity()       # type: ignore[assignment]
    basis = torch.linalg.qr(noise(8, 8))[0]                 # merging keeps half of what four tokens hold: its rows
    columns_first = basis.unflatten(1, (2, 2, 2)).transpose(1, 2).flatten(1)        # merging counts columns last
    with torch.no_grad():
        down.reduce.weight.copy_(columns_first[:4])
        up.expand.weight.copy_(basis[:4].T)
    x = noise(1, 3, 5, 4)
    torch.testing.assert_close(down(up(x)), x)


@pytest.mark.parametrize("height, width", [(64, 64), (50, 131), (5, 3), (1, 1)])
def test_the_maps_are_those_of_the_way_up_from_fine_to_coarse_at_any_size(height: int, width: int) -> None:
    model = small()
    assert model.channels == (8, 16, 32) and model.strides == (4, 8, 16)
    maps = model(noise(2, 3, height, width)).maps
    for found, channels, stride in zip(maps, model.channels, model.strides, strict=True):
        assert found.shape == (2, math.ceil(height / stride), math.ceil(width / stride), channels)
        assert torch.isfinite(found).all()


def test_a_skip_is_what_goes_into_the_blocks_not_what_comes_out() -> None:
    model, entered, joined = small(), list[Tensor](), list[Tensor]()
    for stage in model.stages:
        stage.register_forward_pre_hook(lambda m, args: entered.append(args[0]))
    for up in model.up:
        up.register_forward_pre_hook(lambda m, args: joined.append(args[1]))
    model(noise(1, 3, 50, 70))
    assert len(joined) == 2 and torch.equal(joined[0], entered[1]) and torch.equal(joined[1], entered[0])


def test_without_its_skips_the_finest_map_knows_only_the_lowest() -> None:
    up = seeded(UpStage(8, nn.Identity()))
    x, skip = noise(1, 2, 3, 16).requires_grad_(), noise(1, 3, 5, 8).requires_grad_()       # cut to an odd size
    out = up(x, skip)
    assert out.shape == skip.shape
    out[0, 2, 4].square().sum().backward()
    assert x.grad is not None and skip.grad is not None
    seen_low, seen_skip = (g[0].abs().sum(-1) > 0 for g in (x.grad, skip.grad))
    assert seen_low.nonzero().tolist() == [[1, 2]] and seen_skip.nonzero().tolist() == [[2, 4]]


def test_the_way_up_mirrors_depths_heads_and_stochastic_depth() -> None:
    model = small(drop_path=0.4)

    def of(blocks: nn.Module) -> tuple[list[int], list[float]]:
        return ([b.mix.fn.qkv.heads for b in blocks],                   # type: ignore[attr-defined]
                [m.p for m in blocks.modules() if isinstance(m, DropPath)])
    for i, up in enumerate(model.up):
        assert of(up.blocks) == of(model.stages[i])
    rates = [m.p for m in model.stages.modules() if isinstance(m, DropPath)]
    assert rates == pytest.approx([p for i in range(5) for p in (0.1 * i, 0.1 * i)])


def test_the_readout_reads_the_finest_map() -> None:
    model = small()
    head, features = model.make_head(5), model(noise(2, 3, 40, 56))
    assert torch.allclose(head(features), head.linear(features.maps[0].flatten(1, 2).mean(1)), atol=1e-6)


def test_initialisation() -> None:
    torch.manual_seed(0)
    model = vitrail.create_model("swin_unet")
    for name, part in model.named_modules():
        if isinstance(part, nn.Linear):
            assert part.weight.std().item() == pytest.approx(0.02, rel=0.05), name
            assert part.bias is None or not part.bias.any(), name
        elif isinstance(part, nn.LayerNorm):
            assert part.eps == 1e-5 and (part.weight == 1).all() and not part.bias.any(), name
    tables = torch.cat([m.table.flatten() for m in model.modules() if isinstance(m, RelativeBias)])
    assert tables.std().item() == pytest.approx(0.02, rel=0.05)


def test_a_segmentation_head_of_the_release_is_left_out() -> None:
    model = vitrail.create_model("swin_unet", dim=8, heads=(1, 2, 4, 8), classes=5)
    from vitrail.weights import keys_of
    table = keys_of(model, "official")
    assert table is not None
    theirs = table.restore(model.state_dict()) | {
        "up.expand.weight": noise(128, 8), "up.norm.weight": noise(8), "output.weight": noise(9, 8, 1, 1)}
    loaded = vitrail.load_weights(model, theirs, keys="official")
    assert not loaded.missing and not loaded.unexpected


def test_unequal_depths_and_heads_are_refused() -> None:
    with pytest.raises(ModelError, match="3 depths, 4 heads"):
        vitrail.create_model("swin_unet", depths=(2, 2, 2))
