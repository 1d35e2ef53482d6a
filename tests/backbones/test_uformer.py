"""Uformer: an Mlp that looks at neighbours, modulated windows on the way up, and skips of what was attended."""
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import vitrail
from tests.backbones.made import noise, seeded
from vitrail.backbones.swin import WindowAttention
from vitrail.backbones.uformer import Halving, ModulatedAttention, Uformer, UpStage
from vitrail.core.errors import ModelError
from vitrail.nn import DepthwiseMlp, DropPath, Gelu, RelativeBias, Windows


def small(**changes: object) -> Any:
    settings = {"dim": 8, "depths": (1, 2, 1), "heads": (1, 2, 4), "window": 4, **changes}
    return seeded(Uformer(**settings))      # type: ignore[arg-type]


@pytest.mark.parametrize("shift", [0, 2])
def test_without_its_modulator_it_is_window_attention(shift: int) -> None:
    mix = seeded(ModulatedAttention(8, 2, Windows(4, shift)))
    plain, x = WindowAttention(8, 2, Windows(4, shift)), noise(2, 9, 6, 8)
    plain.load_state_dict({k: v for k, v in mix.state_dict().items() if k != "modulator"})
    assert not torch.allclose(mix(x), plain(x), atol=1e-3)
    nn.init.zeros_(mix.modulator)
    assert torch.equal(mix(x), plain(x))


def test_the_modulator_is_one_window_added_to_all() -> None:
    mix = seeded(ModulatedAttention(8, 2, Windows(2)))
    plain, x = WindowAttention(8, 2, Windows(2)), noise(1, 4, 6, 8)
    plain.load_state_dict({k: v for k, v in mix.state_dict().items() if k != "modulator"})
    torch.testing.assert_close(mix(x), plain(x + mix.modulator.view(1, 2, 2, 8).repeat(1, 2, 3, 1)))


def test_only_the_way_up_is_modulated() -> None:
    model = small()
    down, up = ([type(m) for m in part.modules() if isinstance(m, WindowAttention | ModulatedAttention)]
                for part in (model.stages, model.up))
    assert down == [WindowAttention] * 4 and up == [ModulatedAttention] * 3


def test_the_mlp_sees_the_nearest_neighbours() -> None:
    mlp = seeded(DepthwiseMlp(4, 8, first=Gelu()))
    x = noise(1, 7, 7, 4).requires_grad_()
    mlp(x)[0, 3, 3].sum().backward()
    assert x.grad is not None
    near = torch.zeros(7, 7, dtype=torch.bool)
    near[2:5, 2:5] = True
    assert torch.equal(x.grad[0].abs().sum(-1) > 0, near)


def test_halving_pads_an_odd_side_with_zeros() -> None:
    down, x = seeded(Halving(4)), noise(1, 5, 3, 4)
    whole = torch.zeros(1, 6, 4, 4)
    whole[:, :5, :3] = x
    assert down(x).shape == (1, 3, 2, 8) and torch.equal(down(x), down(whole))


def test_a_stage_up_holds_what_came_from_below_and_the_skip_side_by_side() -> None:
    up = seeded(UpStage(8, 4, nn.Identity()))
    x, skip = noise(1, 2, 3, 8), noise(1, 3, 5, 4)
    out = up(x, skip)
    assert out.shape == (1, 3, 5, 8) and torch.equal(out[..., 4:], skip)
    assert up.expand.bias is not None
    below = torch.einsum("c,cdyx->yxd", x[0, 1, 2], up.expand.weight) + up.expand.bias
    torch.testing.assert_close(out[0, 2, 4, :4], below[0, 0])


def test_a_skip_is_what_comes_out_of_the_blocks() -> None:
    model, left, joined = small(), list[Tensor](), list[Tensor]()
    for stage in model.stages:
        stage.register_forward_hook(lambda m, args, out: left.append(out))
    for up in model.up:
        up.register_forward_pre_hook(lambda m, args: joined.append(args[1]))
    model(noise(1, 3, 17, 22))
    assert len(joined) == 2 and torch.equal(joined[0], left[1]) and torch.equal(joined[1], left[0])


@pytest.mark.parametrize("height, width", [(16, 16), (17, 22), (1, 1)])
def test_the_finest_map_has_a_place_for_every_pixel(height: int, width: int) -> None:
    model = small()
    assert model.channels == (16, 32, 32) and model.strides == (1, 2, 4)
    maps = model(noise(2, 3, height, width)).maps
    for found, channels, stride in zip(maps, model.channels, model.strides, strict=True):
        assert found.shape == (2, -(-height // stride), -(-width // stride), channels)


def test_stochastic_depth_grows_on_the_way_down_stays_and_falls() -> None:
    model = small(depths=(1, 2, 2), drop_path=0.4)
    down, low, high = ([m.p for m in part.modules() if isinstance(m, DropPath)][::2]
                       for part in (model.stages, model.up[1], model.up[0]))
    assert down == pytest.approx([0, 0.2, 0.4, 0.4, 0.4]) and low + high == pytest.approx([0.4, 0.2, 0])


def test_initialisation() -> None:
    torch.manual_seed(0)
    model = vitrail.create_model("uformer_t")
    for name, part in model.named_modules():
        if isinstance(part, nn.Linear):
            assert part.weight.std().item() == pytest.approx(0.02, rel=0.1), name
            assert part.bias is None or not part.bias.any(), name
        elif isinstance(part, ModulatedAttention):
            assert part.modulator.std().item() == pytest.approx(1, rel=0.1), name
    tables = torch.cat([m.table.flatten() for m in model.modules() if isinstance(m, RelativeBias)])
    assert tables.std().item() == pytest.approx(0.02, rel=0.05)


def test_unequal_depths_and_heads_are_refused() -> None:
    with pytest.raises(ModelError, match="3 depths, 5 heads"):
        vitrail.create_model("uformer_t", depths=(2, 2, 2))
