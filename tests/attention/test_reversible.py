"""Reversible layers: nothing is kept, nothing is lost."""
import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tests.attention.proof import apart, draw
from vitrail.measure.memory import peak_bytes
from vitrail.nn import Chain, Mlp, SelfAttention
from vitrail.nn.reversible import Choice, Reversible, ReversibleStack


def branch(dim: int, fn: nn.Module, dropout: float) -> Chain:
    return Chain(norm=nn.LayerNorm(dim), fn=fn, drop=nn.Dropout(dropout))


def stack(depth: int, dim: int = 8, dropout: float = 0.0) -> ReversibleStack:
    torch.manual_seed(0)
    return ReversibleStack(Reversible(branch(dim, SelfAttention(dim, 2), dropout),
                                      branch(dim, Mlp(dim, 2 * dim), dropout)) for _ in range(depth))


def plain(layers: ReversibleStack, x1: Tensor, x2: Tensor) -> tuple[Tensor, Tensor]:
    """The stack as autograd sees any other."""
    for layer in layers.layers():
        x1, x2 = layer(x1, x2)
    return x1, x2


def gradients(run: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], layers: nn.Module, x: Tensor) -> list[Tensor]:
    """Both outputs, and the gradients of both inputs and every parameter that learns."""
    torch.manual_seed(7)
    x1, x2 = x.clone().requires_grad_(), x.flip(1).requires_grad_()
    y1, y2 = run(x1, x2)
    learned = [p for p in layers.parameters() if p.requires_grad]
    loss = (y1 * y1.detach().cos() + y2.square() * x).sum()
    return [y1.detach(), y2.detach(), *torch.autograd.grad(loss, [x1, x2, *learned])]


def assert_same(layers: ReversibleStack, x: Tensor, tolerance: float) -> None:
    ours = gradients(layers, layers, x)
    told = gradients(lambda a, b: plain(layers, a, b), layers, x)
    assert len(ours) == len(told)
    for a, b in zip(ours, told, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def test_the_inputs_follow_from_the_outputs() -> None:
    layers, x1, x2 = stack(6).double(), draw(2, 5, 8, dtype=torch.float64), draw(2, 5, 8, seed=1, dtype=torch.float64)
    with torch.no_grad():
        y1, y2 = layers(x1, x2)
        z1, z2 = layers.inverse(y1, y2)
    assert apart(z1, x1) < 1e-13 and apart(z2, x2) < 1e-13
    assert apart(y1, x1) > 0.1


@pytest.mark.parametrize("dropout", (0.0, 0.3))
def test_gradients_are_those_of_the_plain_stack(dropout: float) -> None:
    """With dropout, its draws are the same again."""
    assert_same(stack(4, dropout=dropout).double(), draw(2, 5, 8, dtype=torch.float64), 1e-11)
    assert_same(stack(4, dropout=dropout), draw(2, 5, 8), 2e-5)


def test_gradient_is_that_of_the_function() -> None:
    layers, x = stack(2, dim=4).double(), draw(1, 3, 4, dtype=torch.float64).requires_grad_()
    names = [n for n, _ in layers.named_parameters()]
    held = [p.detach().clone().requires_grad_() for p in layers.parameters()]

    def call(x: Tensor, *values: Tensor) -> tuple[Tensor, Tensor]:
        out: tuple[Tensor, Tensor] = torch.func.functional_call(layers, dict(zip(names, values, strict=True)), (x, x))
        return out
    assert torch.autograd.gradcheck(call, (x, *held), fast_mode=True)


def test_some_parameters_are_frozen_and_some_layers_shared() -> None:
    layers = stack(2).double()
    layers.append(layers[0])
    layers[1].requires_grad_(False)
    layers[0].get_submodule("f.norm").requires_grad_(False)
    assert_same(layers, draw(2, 5, 8, dtype=torch.float64), 1e-11)


def test_the_second_run_leaves_no_trace() -> None:
    """Random numbers drawn after a backward pass are what they were to be; running statistics saw each batch once."""
    norm = nn.BatchNorm1d(5)
    layers = ReversibleStack([Reversible(norm, nn.Dropout(0.5))])
    torch.manual_seed(3)
    y1, y2 = layers(draw(2, 5, 8), draw(2, 5, 8, seed=1))
    before, mean = torch.get_rng_state(), norm.running_mean
    assert mean is not None and norm.num_batches_tracked == 1
    mean = mean.clone()
    (y1 + y2).sum().backward()
    assert torch.equal(torch.get_rng_state(), before)
    assert norm.num_batches_tracked == 1 and torch.equal(norm.running_mean, mean)       # type: ignore[arg-type]


def test_a_choice_is_made_once() -> None:
    """The second run would choose otherwise; its gradient is that of what was chosen."""
    class Chooses(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.choice, self.numbers = Choice(), itertools.count(2)

        def forward(self, x: Tensor) -> Tensor:
            return x * self.choice(torch.tensor(next(self.numbers)))
    layers = ReversibleStack([Reversible(Chooses(), Chooses())])
    x1, x2 = draw(3, 2).requires_grad_(), draw(3, 2, seed=1).requires_grad_()
    y1, y2 = layers(x1, x2)                                     # y1 = x1 + 2 x2, y2 = x2 + 2 y1
    torch.testing.assert_close(y2, 5 * x2 + 2 * x1)
    d1, d2 = torch.autograd.grad(y2.sum(), [x1, x2])
    assert d1.unique().tolist() == [2.0] and d2.unique().tolist() == [5.0]


def test_autocast_holds_in_the_second_run() -> None:
    layers, x = stack(3), draw(2, 5, 8)

    def cast(run: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> list[Tensor]:
        def inside(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
            with torch.autocast("cpu", torch.bfloat16):
                return run(a, b)
        return gradients(inside, layers, x)
    ours, told, exact = cast(layers), cast(lambda a, b: plain(layers, a, b)), gradients(layers, layers, x)
    assert torch.equal(ours[0], told[0]) and torch.equal(ours[1], told[1])
    for a, b, c in zip(ours[2:], told[2:], exact[2:], strict=True):
        assert (a - b).abs().max() <= 0.02 * b.abs().max() + 1e-6           # a part of what bfloat16 itself does
        assert not torch.equal(a, c)


def test_memory_does_not_grow_with_depth() -> None:
    def peak(depth: int, reversed_: bool) -> int:
        layers, x = stack(depth, dim=16), draw(8, 128, 16).requires_grad_()

        def call() -> tuple[Tensor, ...]:
            y1, y2 = layers(x, x) if reversed_ else plain(layers, x, x)
            return torch.autograd.grad((y1 + y2).sum(), [x, *layers.parameters()])
        return peak_bytes(call) - sum(p.numel() * p.element_size() for p in layers.parameters())
    # a layer keeps the states of a random generator, 10 KB, where the plain one keeps 1.7 MB
    assert peak(16, True) < 1.2 * peak(2, True)
    assert peak(16, False) > 4 * peak(2, False)


def test_parameters_that_changed_are_found() -> None:
    layers, x = stack(1), draw(1, 3, 8)
    y1, y2 = layers(x, x)
    with torch.no_grad():
        next(layers.parameters()).add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        (y1 + y2).sum().backward()


def test_no_gradient_no_record() -> None:
    layers, x = stack(2), draw(1, 3, 8)
    with torch.no_grad():
        quiet = layers(x, x)
    loud = layers(x, x)
    assert loud[0].requires_grad and not quiet[0].requires_grad
    assert torch.equal(loud[0], quiet[0]) and torch.equal(loud[1], quiet[1])


def test_it_exports_as_a_plain_stack() -> None:
    layers, x = stack(2).eval(), draw(1, 3, 8)
    program = torch.export.export(layers, (x, x))
    torch.testing.assert_close(program.module()(x, x), layers(x, x))
