"""Long-short range attention: which channels see what, the taps, and what the convolutions cost."""
import math

import pytest
import torch
from torch import nn

from tests.attention.proof import draw
from vitrail.attention.long_short_range import (DynamicConvolution, LightweightConvolution, LongShortRange,
                                                long_short_range, slide)
from vitrail.explanation.record import record
from vitrail.measure.memory import peak_bytes
from vitrail.nn import SelfAttention

CONVOLUTIONS = [LightweightConvolution, DynamicConvolution]


def seen(module: nn.Module, channels: slice, tokens: int = 20) -> torch.Tensor:
    """Which of (tokens, channels) the answer of token 9 in these channels depends on."""
    x = draw(1, tokens, 16).requires_grad_()
    grad, = torch.autograd.grad(module(x)[0, 9, channels].square().sum(), x)
    return grad[0].abs() > 0


@pytest.mark.parametrize("convolution", CONVOLUTIONS)
def test_the_halves_do_not_see_each_other(convolution: type[nn.Module]) -> None:
    module = LongShortRange(16, 2, local=convolution(6, 2, taps=5), width=6)
    far, near = seen(module, slice(10)), seen(module, slice(10, None))
    assert far[:, :10].all() and not far[:, 10:].any()
    assert near[7:12, 10:].all() and not near[:, :10].any()
    assert not near[:7].any() and not near[12:].any()


def test_an_even_number_of_taps_reaches_one_further_on() -> None:
    module = LongShortRange(16, 2, local=LightweightConvolution(6, 2, taps=4), width=6)
    assert seen(module, slice(10, None)).any(1).nonzero().flatten().tolist() == [8, 9, 10, 11]


def test_the_attending_half_is_plain_attention() -> None:
    module, plain = LongShortRange(16, 2, local=nn.Identity(), width=8), SelfAttention(8, 2)
    plain.qkv.load_state_dict(module.qkv.state_dict())
    plain.out.load_state_dict(module.out.state_dict())
    x = draw(2, 9, 16)
    torch.testing.assert_close(module(x), torch.cat([plain(x[..., :8]), x[..., 8:]], -1))


def test_taps_sum_to_one_and_the_ends_are_padded_with_zeros() -> None:
    taps = draw(1, 9, 2, 3).softmax(-1)
    out = slide(torch.ones(1, 9, 4), taps)
    torch.testing.assert_close(out[:, 1:-1], torch.ones(1, 7, 4))
    torch.testing.assert_close(out[0, 0, ::2], taps[0, 0, :, 1:].sum(-1))
    torch.testing.assert_close(out[0, -1, ::2], taps[0, -1, :, :-1].sum(-1))


def test_an_impulse_shows_the_taps_backwards() -> None:
    module = LightweightConvolution(4, 2, taps=3)
    with torch.no_grad():
        for layer in (module.into, module.out):
            layer.weight.copy_(torch.eye(4))
    impulse = torch.zeros(1, 7, 4)
    impulse[0, 3] = 1
    weights = module.taps[:, 0].softmax(-1)
    torch.testing.assert_close(module(impulse)[0, 2:5, ::2], weights.flip(1).T)


def test_dynamic_taps_follow_the_token_and_lightweight_ones_do_not() -> None:
    dynamic, light, x = DynamicConvolution(4, 2, taps=3), LightweightConvolution(4, 2, taps=3), draw(1, 6, 4)

    def linear(module: nn.Module) -> bool:
        return torch.allclose(module(2 * x) - module(x), module(x) - module(0 * x), atol=1e-5)
    assert linear(light) and not linear(dynamic)


def test_both_kinds_of_weights_are_seen() -> None:
    assert not isinstance(long_short_range.mixer, str)
    module, x = long_short_range.mixer(16, 2, (4, 5)), draw(2, 20, 16)
    with record(module) as seen_:
        module(x)
    weights = dict(seen_.items())
    assert {k: tuple(v.shape) for k, v in weights.items()} == {"attend.softmax": (2, 2, 20, 20),
                                                               "local.softmax": (2, 2, 20, 31)}
    assert all(torch.allclose(w.sum(-1), torch.ones(2, 2, 20)) for w in weights.values())


@pytest.mark.parametrize("convolution", CONVOLUTIONS)
def test_birth(convolution: type[nn.Module]) -> None:
    module = convolution(128, 4, taps=31)
    assert isinstance(module.out, nn.Linear)
    assert math.isclose(module.out.weight.std().item(), math.sqrt(2 / 256), rel_tol=0.05) and not module.out.bias.any()


@pytest.mark.parametrize("convolution", CONVOLUTIONS)
def test_gradients_are_true(convolution: type[nn.Module]) -> None:
    module = convolution(4, 2, taps=3).double()
    assert torch.autograd.gradcheck(module, draw(1, 5, 4, dtype=torch.float64).requires_grad_())


@pytest.mark.parametrize("convolution", CONVOLUTIONS)
def test_the_convolutions_memory_grows_with_the_tokens(convolution: type[nn.Module]) -> None:
    module = convolution(64, 2)

    def peak(n: int) -> int:
        x = draw(1, n, 64)
        return peak_bytes(lambda: module(x))
    small, large = peak(2048), peak(8192)
    assert large < 4.4 * small
    assert large < 8192 * 64 * 31 * 4, "one copy of the sequence a tap would be more"


def test_what_cannot_be() -> None:
    for width in (0, 16):
        with pytest.raises(ValueError, match="leaves none for one of the two parts"):
            LongShortRange(16, 2, local=nn.Identity(), width=width)
    for convolution in CONVOLUTIONS:
        with pytest.raises(ValueError, match="at least one tap"):
            convolution(8, 2, taps=0)
        with pytest.raises(ValueError, match="3 heads do not divide"):
            convolution(8, 3)
