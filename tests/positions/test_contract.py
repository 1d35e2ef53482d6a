"""What every position code promises: gradients, half precision, export, independent samples, true shape comments."""
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.attention.proof import draw
from tests.contracts import test_shapes
from vitrail.nn import PositionTable, RelativeBias
from vitrail.positions.conditional import ConditionalPosition
from vitrail.positions.gated import GatedPositional
from vitrail.positions.log_cpb import LogBias
from vitrail.positions.rotary_2d import MixedRotary2d, Rotary2d
from vitrail.positions.sincos_2d import SinCos2d
from vitrail.positions.sine_2d import Sine2d
from vitrail.positions.sinusoidal import Sinusoidal
from vitrail.testing.noise import fill_

GRID = (2, 3)
# a code, the shape of what it is given (none for a bias), and what else it is given
CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...] | None, tuple[Any, ...]]] = {
    "sinusoidal": (lambda: Sinusoidal(4), (2, 5, 4), (3,)),
    "learned": (lambda: PositionTable(GRID, 4, prefix=1), (2, 7, 4), (GRID,)),
    "sincos_2d": (lambda: SinCos2d(4, prefix=1), (2, 7, 4), (GRID,)),
    "conditional": (lambda: ConditionalPosition(4, prefix=1), (2, 7, 4), (GRID,)),
    "gated_position": (lambda: GatedPositional(4, 2), (2, 6, 4), (GRID,)),
    "rotary_2d": (lambda: Rotary2d(8, 2, prefix=1), (2, 2, 7, 4), (GRID,)),
    "rotary_2d_mixed": (lambda: MixedRotary2d(8, 2, prefix=1), (2, 2, 7, 4), (GRID,)),
    "relative_bias": (lambda: RelativeBias(2, 2), None, ()),
    "log_bias": (lambda: LogBias(2, 2, hidden=4), None, (GRID,)),
}
ON_TOKENS = [name for name, (_, shape, _) in CASES.items() if shape]


def case(name: str, *, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, tuple[Any, ...]]:
    build, shape, rest = CASES[name]
    module = build()
    fill_(module)
    return module.to(dtype).eval(), (*((draw(*shape).to(dtype),) if shape else ()), *rest)


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_those_of_differences_and_reach_every_parameter(name: str) -> None:
    module, args = case(name, dtype=torch.float64)
    names, values = zip(*module.named_parameters(), strict=True) if list(module.parameters()) else ((), ())
    x = [a.requires_grad_() for a in args if isinstance(a, Tensor)]

    def run(*given: Tensor) -> Tensor:
        state = dict(zip(names, given[len(x):], strict=True))
        return torch.func.functional_call(module, state, (*given[:len(x)], *args[len(x):]))
    assert torch.autograd.gradcheck(run, (*x, *values))
    out = module(*args)
    (out * draw(*out.shape, seed=1, dtype=out.dtype)).sum().backward()
    # the bias of a softmax's scores carries nothing, whatever they are
    still = [n for n, p in module.named_parameters() if p.grad is None or p.grad.abs().max() < 1e-12]
    assert still == (["position.bias"] if name == "gated_position" else [])


@pytest.mark.parametrize("name", CASES)
def test_half_precision_is_near(name: str) -> None:
    (module, args), (half, given) = case(name), case(name, dtype=torch.bfloat16)
    out, near = module(*args), half(*given)
    assert near.dtype == torch.bfloat16 and torch.isfinite(near).all()
    torch.testing.assert_close(near.float(), out, atol=0.03 * float(out.detach().abs().max()), rtol=0)


@pytest.mark.parametrize("name", CASES)
def test_an_exported_program_answers_alike(name: str) -> None:
    module, args = case(name)
    program = torch.export.export(module, args)
    torch.testing.assert_close(program.module()(*args), module(*args))


@pytest.mark.parametrize("name", ON_TOKENS)
def test_samples_do_not_know_of_each_other(name: str) -> None:
    module, (x, *rest) = case(name)
    torch.testing.assert_close(module(x[:1], *rest), module(x, *rest)[:1])
    assert torch.equal(module(x, *rest), module(x, *rest))


@pytest.mark.parametrize("grid", [(1, 1), (1, 6), (7, 2)])
def test_any_grid_will_do(grid: tuple[int, int]) -> None:
    n = grid[0] * grid[1]
    for name in ("learned", "sincos_2d", "conditional", "gated_position", "rotary_2d", "rotary_2d_mixed"):
        (module, _), (_, shape, _) = case(name), CASES[name]
        assert shape is not None
        x = draw(*shape[:-2], n + (name != "gated_position"), shape[-1])
        assert module(x, grid).shape == x.shape
    assert case("log_bias")[0](grid).shape == (2, n, n)
    assert Sine2d(8)(torch.zeros(2, *grid, 3)).shape == (1, *grid, 8)


@pytest.mark.parametrize("name", [*CASES, "sine_2d"])
def test_shape_comments_are_true(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(test_shapes, "FLOORS", (str(test_shapes.HOUSE / "positions"), str(test_shapes.HOUSE / "nn")))
    sine = Sine2d(4), (torch.zeros(2, 2, 3, 1), torch.ones(2, 2, 3, dtype=torch.bool))
    module, args = sine if name == "sine_2d" else case(name)
    checker, before = test_shapes.Checker(), sys.gettrace()
    sys.settrace(checker)
    try:
        module(*args)
    finally:
        sys.settrace(before)
    assert not checker.wrong, "\n".join(sorted(checker.wrong))
    unmarked = ("sinusoidal", "learned", "relative_bias", "sincos_2d")      # no line of theirs carries such a comment
    assert checker.checked or name in unmarked
