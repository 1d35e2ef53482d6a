"""Position codes in the plane: what each is made of, and what it promises off its own size."""
import math

import pytest
import torch
from torch import Tensor, nn

from tests.attention.proof import draw
from vitrail.core.errors import ModelError
from vitrail.nn import Conv, RelativeBias
from vitrail.positions.conditional import ConditionalPosition
from vitrail.positions.log_cpb import LogBias, log_offsets
from vitrail.positions.rotary_2d import MixedRotary2d, Rotary2d
from vitrail.positions.sincos_2d import SinCos2d, sincos_table
from vitrail.positions.sine_2d import Sine2d
from vitrail.positions.sinusoidal import sinusoids


# ---- 2-D sines


def test_padding_changes_no_place_of_the_image() -> None:
    position, inside = Sine2d(16), torch.zeros(1, 9, 12, dtype=torch.bool)
    inside[:, :5, :7] = True
    padded, bare = position(torch.zeros(1, 9, 12, 3), inside), position(torch.zeros(1, 5, 7, 3))
    assert torch.equal(padded[:, :5, :7], bare)


def test_y_comes_first_and_the_last_place_is_a_full_turn() -> None:
    code = Sine2d(8)(torch.zeros(1, 4, 6, 3), None)
    assert torch.equal(code[0, :, 0, :4], code[0, :, 5, :4]) and not torch.equal(code[0, 0, :, :4], code[0, 1, :, :4])
    assert torch.equal(code[0, 0, :, 4:], code[0, 3, :, 4:])
    full = torch.tensor([0.0, 1.0])                                 # the sine and the cosine of 2π
    torch.testing.assert_close(code[0, 3, 5, :2], full, atol=2e-5, rtol=0)
    assert code[0, 0, 0, 0].item() == pytest.approx(math.sin(2 * math.pi / 4), abs=1e-5)        # counted from 1


def test_an_image_that_is_all_padding_gives_numbers() -> None:
    code = Sine2d(8)(torch.zeros(1, 3, 3, 1), torch.zeros(1, 3, 3, dtype=torch.bool))
    torch.testing.assert_close(code, torch.tensor([0.0, 1.0]).repeat(4).expand(1, 3, 3, 8))


# ---- fixed sines and cosines


def test_a_row_of_the_fixed_table_holds_the_sequences_code_of_its_two_places() -> None:
    table, along = sincos_table((5, 3), 16).unflatten(0, (5, 3)), sinusoids(5, 8)
    for y in range(5):
        for x in range(3):
            expected = torch.cat([along[y, 0::2], along[y, 1::2], along[x, 0::2], along[x, 1::2]])
            assert torch.equal(table[y, x], expected)


def test_tokens_without_a_place_get_nothing_added() -> None:
    x = draw(2, 2 + 12, 8)
    out = SinCos2d(8, prefix=2)(x, (3, 4))
    assert torch.equal(out[:, :2], x[:, :2])
    torch.testing.assert_close(out[:, 2:] - x[:, 2:], sincos_table((3, 4), 8).float().expand(2, -1, -1))


# ---- biases


def test_an_offsets_bias_is_its_own_in_every_larger_window() -> None:
    bias = LogBias(4, 3)
    small, large = bias((4, 4)).unflatten(1, (4, 4)).unflatten(3, (4, 4)), bias((9, 6))
    large = large.unflatten(1, (9, 6)).unflatten(3, (9, 6))
    torch.testing.assert_close(large[:, :4, :4, :4, :4], small)
    torch.testing.assert_close(large[:, 5:, 2:, 5:, 2:], small)


def test_the_bias_stays_between_0_and_16_however_far_an_offset() -> None:
    bias = LogBias(4, 2)
    nn.init.normal_(bias.fc2.weight, std=10.0)
    out = bias((2, 50))
    assert out.min() >= 0 and out.max() <= 16 and out.max() - out.min() > 8


def test_log_offsets_are_one_third_a_doubling() -> None:
    at = log_offsets((5, 5), 8, torch.zeros(1)).unflatten(0, (9, 9))
    reach = math.log2(1 + 8 * 4 / 7) / 3
    assert at[8, 4].tolist() == pytest.approx([reach, 0]) and at[4, 0].tolist() == pytest.approx([0, -reach])
    assert torch.equal(at, -at.flip(0, 1))
    assert log_offsets((8, 8), 8, torch.zeros(1)).max().item() == pytest.approx(math.log2(9) / 3)


def test_the_indices_of_swin_count_down_from_the_last_offset() -> None:
    bias = RelativeBias(3, 1)
    assert bias.index[0].tolist() == [12, 11, 10, 7, 6, 5, 2, 1, 0]


# ---- conditional


def test_without_weights_the_convolution_says_nothing() -> None:
    position, x = ConditionalPosition(6), draw(1, 20, 6)
    for p in position.parameters():
        nn.init.zeros_(p)
    assert torch.equal(position(x, (4, 5)), x)


def test_the_padding_alone_tells_a_place() -> None:
    position = ConditionalPosition(4)
    flat = torch.ones(1, 30, 4)
    out = position(flat, (5, 6)).unflatten(1, (5, 6))
    inner = out[:, 1:-1, 1:-1].flatten(1, 2)
    torch.testing.assert_close(inner, inner[:, :1].expand_as(inner))
    assert not torch.allclose(out[:, 0, 0], out[:, 2, 2])
    position.conv = Conv(4, 4, 3, padding=1, groups=4, padding_mode="circular")
    round_about = position(flat, (5, 6))
    torch.testing.assert_close(round_about, round_about[:, :1].expand_as(round_about))


# ---- rotary


@pytest.mark.parametrize("kind", [Rotary2d, MixedRotary2d])
def test_turning_keeps_lengths_and_leaves_the_class_token(kind: type[Rotary2d] | type[MixedRotary2d]) -> None:
    x = draw(2, 3, 1 + 20, 8)
    out = kind(24, 3, prefix=1)(x, (4, 5))
    torch.testing.assert_close(out.norm(dim=-1), x.norm(dim=-1))
    assert torch.equal(out[:, :, :2], x[:, :, :2])                  # the class token, and the place at the origin
    assert not torch.allclose(out[:, :, 2:], x[:, :, 2:])


def test_the_first_half_turns_by_x_and_the_second_by_y() -> None:
    turned = Rotary2d(8, 1)(torch.tensor([1.0, 0.0]).repeat(4).expand(1, 1, 6, 8), (2, 3))[0, 0].unflatten(0, (2, 3))
    for y in range(2):
        for x in range(3):
            angles = [x, x / 10, y, y / 10]                         # paces 1 and 100^(-1/2)
            expected = [f(a) for a in angles for f in (math.cos, math.sin)]
            assert turned[y, x].tolist() == pytest.approx(expected, abs=1e-6)


def test_mixed_is_born_with_the_axial_paces_along_axes_of_its_own() -> None:
    torch.manual_seed(0)
    frequency = MixedRotary2d(64, 4).frequency.detach()             # (2, 4, 8)
    pace = 10.0 ** (-torch.arange(0, 8, 2) / 8)
    torch.testing.assert_close(frequency.norm(dim=0), pace.repeat(2).expand(4, 8))
    across = (frequency[:, :, :4] * frequency[:, :, 4:]).sum(0)
    torch.testing.assert_close(across, torch.zeros(4, 4), atol=1e-6, rtol=0)            # two axes, at right angles
    assert len({round(v, 4) for v in frequency[0, :, 0].tolist()}) == 4                 # another pair in every head


def test_it_makes_no_difference_how_queries_lie_in_memory() -> None:
    x, rotary = draw(2, 3, 6, 8), Rotary2d(24, 3)
    expected = rotary(x, (2, 3))
    for y in (x.mT.contiguous().mT, torch.cat([x, x], -1)[..., 8:], torch.cat([draw(2, 3, 6, 1), x], -1)[..., 1:]):
        torch.testing.assert_close(rotary(y, (2, 3)), expected)     # their kernels round differently


def test_half_precision_turns_by_whole_angles() -> None:
    x = draw(1, 1, 90 * 90, 8)
    exact, half = Rotary2d(8, 1)(x.bfloat16().float(), (90, 90)), Rotary2d(8, 1)(x.bfloat16(), (90, 90))
    assert half.dtype == torch.bfloat16 and torch.equal(half, exact.bfloat16())


# ---- errors


@pytest.mark.parametrize("build", [lambda: Sine2d(6), lambda: SinCos2d(2), lambda: SinCos2d(10)])
def test_two_axes_need_fours(build: type[nn.Module]) -> None:
    with pytest.raises(ModelError, match="multiple of 4"):
        build()


@pytest.mark.parametrize(("dim", "heads"), [(12, 2), (8, 0), (30, 3)])
def test_a_head_needs_fours_too(dim: int, heads: int) -> None:
    for kind in (Rotary2d, MixedRotary2d):
        with pytest.raises(ModelError, match="multiple of 4 channels a head"):
            kind(dim, heads)


def test_a_code_for_another_width_is_not_stretched() -> None:
    x: Tensor = torch.zeros(1, 4, 6)
    with pytest.raises(RuntimeError):
        SinCos2d(8)(x, (2, 2))
