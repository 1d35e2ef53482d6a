"""CAT: patches attend to each other in every channel alone, between two rounds of attention inside them."""
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import vitrail
from tests.backbones.made import noise, seeded
from vitrail.backbones.cat import CAT, CrossPatchAttention
from vitrail.backbones.swin import WindowAttention
from vitrail.core.errors import ModelError
from vitrail.nn import DropPath, PositionTable, RelativeBias


def small(**changes: object) -> Any:
    settings = {"image": 32, "dim": 8, "depths": (1, 2), "heads": (1, 2), "window": 4, **changes}
    return seeded(CAT(**settings))      # type: ignore[arg-type]


@pytest.mark.parametrize("H, W", [(8, 12), (6, 9), (3, 2)])
def test_it_is_attention_over_patches_in_every_channel(H: int, W: int) -> None:
    mix, x = seeded(CrossPatchAttention(4)), noise(2, H, W, 3)
    h, w = -(-H // 4), -(-W // 4)
    padded = torch.zeros(2, 4 * h, 4 * w, 3)
    padded[:, :H, :W] = x
    out = torch.zeros_like(padded)
    for channel in range(3):
        rows = [padded[:, 4 * i:4 * i + 4, 4 * j:4 * j + 4, channel].flatten(1) for i in range(h) for j in range(w)]
        q, k, v = mix.qkv.proj(torch.stack(rows, 1)).chunk(3, -1)                       # (B, N, 16)
        mixed = mix.out.proj((q @ k.mT / 4).softmax(-1) @ v)
        for at in range(h * w):
            i, j = 4 * (at // w), 4 * (at % w)
            out[:, i:i + 4, j:j + 4, channel] = mixed[:, at].unflatten(1, (4, 4))
    torch.testing.assert_close(mix(x), out[:, :H, :W], atol=1e-5, rtol=1e-5)


def test_a_channel_sees_the_whole_map_and_no_other_channel() -> None:
    mix = seeded(CrossPatchAttention(4))
    x = noise(1, 8, 12, 5).requires_grad_()
    mix(x)[0, 1, 2, 3].backward()
    assert x.grad is not None
    touched = x.grad[0] != 0
    assert touched[..., 3].all() and touched.sum() == 8 * 12


def test_patches_may_come_in_any_order() -> None:
    mix, x = seeded(CrossPatchAttention(2)), noise(1, 2, 8, 3)
    order = [2, 0, 3, 1]

    def shuffled(x: Tensor) -> Tensor:
        return x.unflatten(2, (4, 2))[:, :, order].flatten(2, 3)
    torch.testing.assert_close(mix(shuffled(x)), shuffled(mix(x)))


def test_a_single_patch_is_only_projected() -> None:
    mix, x = seeded(CrossPatchAttention(4)), noise(1, 4, 4, 3)
    value = mix.qkv.proj(x.flatten(1, 2).mT).chunk(3, -1)[2]
    torch.testing.assert_close(mix(x).flatten(1, 2).mT, mix.out.proj(value))


def test_what_is_shown_is_between_patches_a_map_a_channel() -> None:
    model, image = small(), noise(1, 3, 48, 64)
    with vitrail.record(model) as seen:
        model(image)
    cross = [layer for layer in seen.layers if "cross" in layer.name]
    assert [tuple(c.weights.shape) for c in cross] == [(1, 1, 8, 12, 12)] + [(1, 1, 16, 4, 4)] * 2
    assert [c.grid for c in cross] == [(12, 16), (6, 8), (6, 8)]


def test_a_triple_attends_inside_between_and_inside() -> None:
    mixers = [type(m) for m in small().modules() if isinstance(m, WindowAttention | CrossPatchAttention)]
    assert mixers == [WindowAttention, CrossPatchAttention, WindowAttention] * 3


def test_positions_are_added_once_and_resampled_for_another_size() -> None:
    model, image = small(), noise(1, 3, 32, 32)
    before = model(image).maps[0]
    nn.init.zeros_(model.position.table)
    assert not torch.allclose(model(image).maps[0], before, atol=1e-3)
    assert sum(isinstance(m, PositionTable) for m in model.modules()) == 1
    assert model(noise(1, 3, 50, 33)).maps[1].shape == (1, 7, 5, 16)


def test_initialisation() -> None:
    torch.manual_seed(0)
    model = vitrail.create_model("cat_t")
    for name, part in model.named_modules():
        if isinstance(part, nn.Linear):
            assert part.weight.std().item() == pytest.approx(0.02, rel=0.05), name
            assert part.bias is None or not part.bias.any(), name
        elif isinstance(part, RelativeBias | PositionTable):
            assert part.table.std().item() == pytest.approx(0.02, rel=0.1), name


def test_the_three_of_a_triple_share_a_rate_of_stochastic_depth() -> None:
    drops = [m.p for m in small(drop_path=0.4).modules() if isinstance(m, DropPath)]
    assert drops == pytest.approx([0.0] * 6 + [0.2] * 6 + [0.4] * 6)


def test_unequal_depths_and_heads_are_refused() -> None:
    with pytest.raises(ModelError, match="3 depths, 4 heads"):
        vitrail.create_model("cat_t", depths=(1, 1, 1))
