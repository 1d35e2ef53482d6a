"""Linear attention: what a token sees, what a sequence leaves behind, and what it costs."""
import pytest
import torch

from tests.attention.proof import apart, draw
from vitrail.attention.linear import (SEGMENT, CausalLinearAttention, LinearAttention, attend_linear,
                                      attend_linear_masked, causal_linear_attention, step)
from vitrail.measure.memory import peak_bytes


def moved_by(module: torch.nn.Module, token: int, x: torch.Tensor) -> torch.Tensor:
    """Which tokens of x the module's answer at `token` depends on."""
    x = x.requires_grad_()
    grad, = torch.autograd.grad(module(x)[:, token].square().sum(), x)
    return grad.abs().sum((0, 2)) > 0


def test_every_token_sees_all() -> None:
    assert moved_by(LinearAttention(8, 2), 3, draw(1, 11, 8)).all()


@pytest.mark.parametrize("token", [0, 3, 4, 10])
def test_a_causal_token_sees_itself_and_those_before_it(token: int) -> None:
    seen = moved_by(CausalLinearAttention(8, 2, chunk=4), token, draw(1, 11, 8))
    assert seen.tolist() == [i <= token for i in range(11)]


def test_causality_holds_over_segments() -> None:
    n = SEGMENT + 70
    q, k, v = draw(3, 1, 1, n, 4).unbind()
    v = v.requires_grad_()
    grad, = torch.autograd.grad(attend_linear_masked(q, k, v)[0][:, :, SEGMENT + 3].sum(), v)
    assert (grad.abs().sum((0, 1, 3)) > 0).tolist() == [i <= SEGMENT + 3 for i in range(n)]


def test_the_weights_sum_to_one_and_have_no_scale() -> None:
    q, k = draw(2, 1, 2, 9, 4).unbind()
    ones = torch.ones(1, 2, 9, 4)
    for mixed in (attend_linear(q, k, ones), attend_linear_masked(q, k, ones)[0]):
        torch.testing.assert_close(mixed, ones)
    # one positive channel: the weights are (q + 1)(k + 1), so those of q = 0, k = (0, 2) are 1/4 and 3/4
    mixed = attend_linear(torch.zeros(1, 1, 1, 1), torch.tensor([[[[0.], [2.]]]]), torch.tensor([[[[0.], [4.]]]]))
    torch.testing.assert_close(mixed, torch.full((1, 1, 1, 1), 3.0))


def test_tokens_have_no_order() -> None:
    module, x, order = LinearAttention(8, 2), draw(2, 13, 8), torch.randperm(13)
    torch.testing.assert_close(module(x[:, order]), module(x)[:, order])


def test_a_sequence_can_be_read_in_pieces_and_gone_on_with_token_by_token() -> None:
    module, x = CausalLinearAttention(12, 3, chunk=4).double(), draw(2, 20, 12, dtype=torch.float64)
    first, state = module.read(x[:, :7])
    second, state = module.read(x[:, 7:15], state)
    answers = [first, second]
    for token in x[:, 15:].unbind(1):
        answer, state = module.step(token, state)
        answers.append(answer[:, None])
        assert state.memory.shape == (2, 3, 4, 4) and state.norm.shape == (2, 3, 4)
    assert apart(torch.cat(answers, 1).detach(), module(x).detach()) < 1e-12


def test_sums_are_kept_in_float32() -> None:
    q, k, v = draw(3, 1, 2, 3000, 4, dtype=torch.bfloat16).unbind()
    answers, state = attend_linear_masked(q, k, v)
    assert state.memory.dtype == state.norm.dtype == torch.float32 and answers.dtype == torch.bfloat16
    _, after = step(q[:, :, 0], k[:, :, 0], v[:, :, 0], state)
    assert (after.norm > state.norm).all(), "a token more must count, however many came before"


def test_gradients_are_true() -> None:
    qkv = [t.requires_grad_() for t in draw(3, 1, 1, 5, 3, dtype=torch.float64).unbind()]
    assert torch.autograd.gradcheck(attend_linear, qkv)
    assert torch.autograd.gradcheck(lambda q, k, v: attend_linear_masked(q, k, v, chunk=2)[0], qkv)


@pytest.mark.parametrize("build", [LinearAttention, CausalLinearAttention])
@pytest.mark.parametrize("training", [False, True])
def test_memory_grows_with_the_tokens(build: type[torch.nn.Module], training: bool) -> None:
    module = build(64, 1)

    def peak(n: int) -> int:
        x = draw(1, n, 64)
        with torch.set_grad_enabled(training):
            return peak_bytes(lambda: module(x))
    small, large = peak(2048), peak(8192)
    assert large < 4.4 * small
    assert large < 8192 * 64 * 64 * 4 / 2, "a D x D matrix for each token would be twice that"


def test_what_cannot_be() -> None:
    with pytest.raises(ValueError, match="at least one token, not 0"):
        CausalLinearAttention(8, 2, chunk=0)
    with pytest.raises(ValueError, match="3 heads do not divide"):
        LinearAttention(8, 3)
    assert isinstance(causal_linear_attention.mixer, str) and "linear_attention" in causal_linear_attention.mixer
