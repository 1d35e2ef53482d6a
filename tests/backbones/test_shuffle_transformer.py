"""Shuffle Transformer: windows of neighbours and of tokens that stand apart take turns; all norms are batch norms."""
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import vitrail
from tests.backbones.made import noise, seeded
from vitrail.backbones.shuffle_transformer import ConvMerging, ShuffleTransformer, conv_patches
from vitrail.backbones.swin import WindowAttention
from vitrail.core.errors import ModelError
from vitrail.nn import BatchNorm, Conv, DropPath, RelativeBias, Strided, Windows


def small(**changes: object) -> Any:
    settings = {"dim": 8, "hidden": 4, "depths": (2, 2), "heads": (1, 2), "window": 3, **changes}
    return seeded(ShuffleTransformer(**settings))       # type: ignore[arg-type]


def seen_by(mix: nn.Module, H: int, W: int, row: int, column: int) -> Tensor:
    """The places (H, W) that move the output of one place."""
    x = noise(1, H, W, 8).requires_grad_()
    mix(x)[0, row, column].square().sum().backward()
    assert x.grad is not None
    return x.grad[0].abs().sum(-1) > 0


@pytest.mark.parametrize("H, W", [(9, 6), (7, 10), (2, 3)])
def test_a_shuffled_window_holds_tokens_from_all_over_the_map(H: int, W: int) -> None:
    mix = seeded(WindowAttention(8, 2, Strided(size=3)))
    dy, dx = -(-H // 3), -(-W // 3)
    y, x = torch.meshgrid(torch.arange(H), torch.arange(W), indexing="ij")
    for row, column in ((0, 0), (H - 1, W - 1), (H // 2, 1)):
        assert torch.equal(seen_by(mix, H, W, row, column), (y % dy == row % dy) & (x % dx == column % dx))


def test_shuffling_is_a_permutation_around_plain_windows() -> None:
    plain, shuffled = WindowAttention(8, 2, Windows(3)), WindowAttention(8, 2, Strided(size=3))
    shuffled.load_state_dict(seeded(plain).state_dict())
    x = noise(2, 9, 6, 8)
    rows, columns = torch.arange(9).view(3, 3).T.flatten(), torch.arange(6).view(3, 2).T.flatten()
    assert torch.equal(shuffled(x)[:, rows][:, :, columns], plain(x[:, rows][:, :, columns]))


def test_a_map_of_one_window_is_not_shuffled() -> None:
    plain, shuffled = WindowAttention(8, 2, Windows(3)), WindowAttention(8, 2, Strided(size=3))
    shuffled.load_state_dict(seeded(plain).state_dict())
    x = noise(2, 3, 3, 8)
    assert torch.equal(shuffled(x), plain(x))


def test_blocks_take_turns() -> None:
    groups = [m.groups for m in small(depths=(3, 2)).modules() if isinstance(m, WindowAttention)]
    assert [type(g) for g in groups] == [Windows, Strided, Windows, Windows, Strided]
    assert {g.size for g in groups} == {3} and not any(g.shift for g in groups if isinstance(g, Windows))


def test_the_convolution_between_attention_and_mlp_is_as_large_as_a_window_and_sees_one_channel() -> None:
    local = small().stages[0].blocks[0].local
    x = noise(1, 7, 7, 8).requires_grad_()
    (local(x) - x)[0, 3, 3, 2].backward()
    assert x.grad is not None
    touched = x.grad[0] != 0
    near = torch.zeros(7, 7, dtype=torch.bool)
    near[2:5, 2:5] = True
    # the branch is subtracted again, so that only the convolution is left
    assert torch.equal(touched[..., 2], near) and touched.sum() == 9


def test_queries_keys_and_values_have_no_bias_and_all_norms_are_batch_norms() -> None:
    model = small()
    assert not any(name.endswith("qkv.proj.bias") for name, _ in model.named_parameters())
    assert not any(isinstance(m, nn.LayerNorm) for m in model.modules())
    assert sum(isinstance(m, BatchNorm) for m in model.modules()) == 2 + 3 * 4 + 1


def test_merging_pads_an_odd_side_behind_the_norm() -> None:
    down = seeded(ConvMerging(4))
    x = noise(1, 5, 3, 4)
    padded = torch.zeros(1, 6, 4, 4)
    padded[:, :5, :3] = down.norm(x)
    assert torch.equal(down(x), down.reduce(padded)) and down(x).shape == (1, 3, 2, 8)


def test_the_image_is_read_by_two_strided_convolutions() -> None:
    stem = seeded(conv_patches(4, 8))
    image = noise(1, 32, 32, 3).requires_grad_()
    stem(image)[0, 4, 4, 0].backward()
    assert image.grad is not None
    rows = (image.grad[0].abs().sum((1, 2)) > 0).nonzero().flatten()
    assert rows.min() >= 13 and rows.max() <= 19 and stem(noise(1, 33, 30, 3)).shape == (1, 9, 8, 8)


def test_stochastic_depth_is_one_rate_a_stage_and_spares_the_convolutions() -> None:
    model = small(depths=(2, 2, 2), heads=(1, 2, 4), drop_path=0.4)
    assert [m.p for m in model.modules() if isinstance(m, DropPath)] == pytest.approx([0.0] * 4 + [0.2] * 4 + [0.4] * 4)


def test_initialisation() -> None:
    torch.manual_seed(0)
    model = vitrail.create_model("shuffle_t", depths=(2, 2, 2, 2))
    for name, part in model.named_modules():
        if isinstance(part, nn.Linear | Conv):
            assert part.weight.std().item() == pytest.approx(0.02, rel=0.1), name
            assert part.bias is None or not part.bias.any(), name
        elif isinstance(part, RelativeBias):
            assert part.table.std().item() == pytest.approx(0.02, rel=0.15), name
        elif isinstance(part, BatchNorm):
            assert (part.weight == 1).all() and not part.bias.any(), name


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ModelError, match="3 depths, 4 heads"):
        vitrail.create_model("shuffle_t", depths=(1, 1, 1))
    with pytest.raises(ModelError, match="a window of 8"):
        vitrail.create_model("shuffle_t", window=8)
