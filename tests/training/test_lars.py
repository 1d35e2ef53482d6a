"""LARS: the paper's step, tensor by tensor."""
import torch
from torch import Tensor, nn

from vitrail.training.lars import LARS


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_three_steps_are_those_of_the_equations() -> None:
    weight, bias = nn.Parameter(noise(4, 3)), nn.Parameter(noise(4, seed=1))
    w, b, v, u = weight.detach().clone(), bias.detach().clone(), torch.zeros(4, 3).double(), torch.zeros(4).double()
    optimizer = LARS([weight, bias], lr=0.5, momentum=0.9, weight_decay=0.1, trust=0.01)
    for step in range(3):
        weight.grad, bias.grad = noise(4, 3, seed=10 + step), noise(4, seed=20 + step)
        g = weight.grad + 0.1 * w
        v = 0.9 * v + 0.01 * w.norm() / g.norm() * g
        u = 0.9 * u + bias.grad
        w, b = w - 0.5 * v, b - 0.5 * u
        optimizer.step()
        torch.testing.assert_close(weight.detach(), w)
        torch.testing.assert_close(bias.detach(), b)


def test_the_length_of_a_step_is_that_of_the_tensor_whatever_the_gradient() -> None:
    lengths = []
    for scale in (1.0, 1e4):
        weight = nn.Parameter(noise(5, 5))
        before = weight.detach().clone()
        weight.grad = scale * noise(5, 5, seed=1)
        LARS([weight], lr=1.0, momentum=0.0, trust=0.01).step()
        lengths.append(float((weight.detach() - before).norm() / before.norm()))
    assert abs(lengths[0] - 0.01) < 1e-9 and abs(lengths[1] - 0.01) < 1e-9


def test_a_tensor_of_zeros_and_one_without_a_gradient_are_safe() -> None:
    zeros, idle = nn.Parameter(torch.zeros(3, 3)), nn.Parameter(torch.ones(2, 2))
    zeros.grad = torch.ones(3, 3)
    optimizer = LARS([zeros, idle], lr=0.1)
    assert optimizer.step(lambda: 7.0) == 7.0
    assert torch.equal(zeros.detach(), torch.full((3, 3), -0.1)) and torch.equal(idle.detach(), torch.ones(2, 2))
