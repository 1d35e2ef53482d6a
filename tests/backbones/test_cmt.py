"""CMT: local perception, a bias for every place, a residual inside the Mlp, and norms behind activations."""
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import vitrail
from tests.backbones.made import noise
from vitrail.backbones.cmt import CMT, CMTBlock, InvertedResidualMlp, PlaceBias, conv_act
from vitrail.core.errors import CheckpointError, ModelError
from vitrail.nn import BatchNorm, Conv


def small(**changes: Any) -> CMT:
    torch.manual_seed(0)
    return CMT(**{"image": 64, "stem": 8, "dims": (8, 16), "depths": (1, 1), "heads": (1, 2), "mlp_ratios": (2, 2),
                  "reductions": (4, 1), "hidden": 24, **changes}).eval()


def biased(grid: tuple[int, int], reduction: int = 2, heads: int = 2) -> PlaceBias:
    bias = PlaceBias(grid, reduction, heads)
    with torch.no_grad():
        bias.table.copy_(noise(*bias.table.shape))
    return bias


def test_the_norm_comes_behind_the_activation() -> None:
    layer, x = conv_act(3, 4).eval(), noise(1, 5, 5, 3)
    with torch.no_grad():
        layer.norm.running_mean.fill_(0.3)
        expected = F.batch_norm(F.gelu(layer.conv(x)).permute(0, 3, 1, 2), layer.norm.running_mean,
                                layer.norm.running_var).permute(0, 2, 3, 1)
        torch.testing.assert_close(layer(x), expected)


def test_the_residual_of_the_mlp_lies_inside() -> None:
    mlp, x = InvertedResidualMlp(4, 6).eval(), noise(2, 5, 5, 4)
    with torch.no_grad():
        nn.init.zeros_(mlp.conv.weight)
        nn.init.zeros_(mlp.conv.bias)
        hidden = mlp.norm1(F.gelu(mlp.fc1(x)))
        expected = mlp.norm3(mlp.fc2(mlp.norm2(F.gelu(hidden))))        # without its convolution the hidden map passes
        torch.testing.assert_close(mlp(x), expected)
        nn.init.zeros_(mlp.fc2.weight)
        assert (mlp(x) == mlp(noise(2, 5, 5, 4, seed=1))).all(), "and nothing passes around the whole"


def test_local_perception_without_weights_is_nothing() -> None:
    local, x = CMTBlock(8, 2, 1, 2.0, 0.0).local, noise(1, 6, 6, 8)
    (slope,) = torch.autograd.grad(local(x.requires_grad_())[0, 2, 3, 5], x)
    assert slope[0].abs().sum((0, 1)).nonzero().flatten().tolist() == [5] and (slope != 0).sum() == 9
    with torch.no_grad():
        nn.init.zeros_(local.fn.weight)
        nn.init.zeros_(local.fn.bias)
    assert torch.equal(local(x), x)


def test_a_bias_says_who_looks_where() -> None:
    mixer, x = CMTBlock(8, 2, 1, 2.0, 0.0).mix.fn, noise(1, 3, 4, 8)
    torch.testing.assert_close(mixer(x, torch.zeros(2, 12, 12)), mixer(x))
    one = torch.full((2, 12, 12), -torch.inf)
    one[:, :, 7] = 0                                                    # everybody looks at one place alone
    value = mixer.kv(x)[:, 1, 3, 8:]
    torch.testing.assert_close(mixer(x, one), mixer.out.proj(value).expand(1, 3, 4, 8))


def test_the_blocks_of_a_stage_share_one_bias() -> None:
    model = vitrail.create_model("cmt_ti", depths=(2, 2, 2, 2))
    shapes = [tuple(m.table.shape) for m in model.modules() if isinstance(m, PlaceBias)]
    assert shapes == [(1, 1600, 25), (2, 400, 25), (4, 100, 25), (8, 25, 25)]


def test_a_bias_of_its_own_grid_is_added_as_it_is() -> None:
    bias = biased((4, 6))
    assert bias((4, 6)) is bias.table and bias.table.shape == (2, 24, 6)


@pytest.mark.parametrize("grid", [(8, 8), (3, 9), (5, 4), (1, 1)])
def test_a_bias_is_resampled_over_places_and_over_cells(grid: tuple[int, int]) -> None:
    bias, (h, w) = biased((4, 6)), grid
    found = bias(grid)
    assert found.shape == (2, h * w, max(1, h // 2) * max(1, w // 2))
    rows, columns = noise(4, 6), noise(2, 3, seed=1)
    with torch.no_grad():                                               # of a product, each factor by itself
        bias.table.copy_((rows.flatten()[:, None] * columns.flatten()).expand(2, -1, -1))

    def fitted(image: Tensor, size: tuple[int, int]) -> Tensor:
        return F.interpolate(image[None, None], size, mode="bicubic", antialias=True)[0, 0].flatten()
    expected = fitted(rows, grid)[:, None] * fitted(columns, bias.cells(grid))
    torch.testing.assert_close(bias(grid), expected.expand(2, -1, -1), rtol=1e-4, atol=1e-5)


def test_released_biases_are_fitted_to_another_size() -> None:
    theirs = small(image=64)
    model = small(image=96)
    for ours, given in zip(model.stages, theirs.stages, strict=True):
        fitted = ours.bias.fit(given.bias.table)
        assert fitted.shape == ours.bias.table.shape
        torch.testing.assert_close(fitted, given.bias(ours.bias.grid))
    with pytest.raises(CheckpointError, match="reduced 4 times"):
        model.stages[0].bias.fit(torch.zeros(1, 24, 6))


def test_at_another_size_nothing_but_the_tables_differs() -> None:
    """A model of another size with the resampled tables answers alike."""
    model, other, image = small(image=64), small(image=(96, 72)), noise(1, 3, 96, 72)
    state = {k: v for k, v in model.state_dict().items() if not k.endswith("bias.table")}
    other.load_state_dict(state, strict=False)
    with torch.no_grad():
        for ours, stage in zip(other.stages, model.stages, strict=True):
            ours.bias.table.copy_(stage.bias(ours.bias.grid))
        for a, b in zip(model(image).maps, other(image).maps, strict=True):
            torch.testing.assert_close(a, b)


def test_the_readout_is_wide_at_every_place() -> None:
    model = small()
    head, features = model.make_head(3).eval(), model(noise(2, 3, 64, 64))
    places = F.silu(head.norm(head.expand(features.maps[-1])))
    torch.testing.assert_close(head(features), head.linear(places.mean((1, 2))))
    assert head.dropout.p == 0.1 and vitrail.create_model("cmt_b", depths=(1, 1, 1, 1)).head.dropout.p == 0.3


def test_fractions_of_a_channel_are_cut_off() -> None:
    model = vitrail.create_model("cmt_xs", depths=(1, 1, 1, 1))
    widths = [m.fc1.out_channels for m in model.modules() if isinstance(m, InvertedResidualMlp)]
    assert widths == [int(dim * 3.77) for dim in (52, 104, 208, 416)] == [196, 392, 784, 1568]


def test_born_as_published() -> None:
    model = vitrail.create_model("cmt_s", depths=(1, 1, 1, 1))
    for part in model.modules():
        if isinstance(part, nn.Linear):
            assert part.weight.std().item() == pytest.approx(0.02, rel=0.06) and not part.bias.any()
        elif isinstance(part, Conv):
            fan_out = part.out_channels * part.kernel_size[0] ** 2              # of all groups: small depthwise weights
            assert part.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.15)
        elif isinstance(part, PlaceBias):
            assert part.table.std().item() == pytest.approx(1, rel=0.05)
        elif isinstance(part, BatchNorm):
            assert (part.weight == 1).all() and part.eps == 1e-5


def test_settings_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(ModelError, match="1 mlp_ratios"):
        small(mlp_ratios=(4,))
