"""Which codes are blind to where two tokens stand, and see only how far apart they are.

`a` asks from every place and `b` answers from every place. The code is translation-invariant if and only if the score
between them stays the same when both move by one step.
"""
import importlib
import math
import pkgutil
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import vitrail.positions
from tests.attention.proof import draw
from vitrail.core.mechanism import Position
from vitrail.nn import PositionTable, RelativeBias
from vitrail.positions.conditional import ConditionalPosition
from vitrail.positions.gated import GatedPositional
from vitrail.positions.log_cpb import LogBias
from vitrail.positions.predecessors import bits, integers, normalised, sines
from vitrail.positions.rotary_2d import MixedRotary2d, Rotary2d
from vitrail.positions.sincos_2d import SinCos2d
from vitrail.positions.sine_2d import Sine2d
from vitrail.positions.sinusoidal import Sinusoidal
from vitrail.testing.noise import fill_

GRID, DIM = (5, 5), 16
N = math.prod(GRID)


def noisy(module: nn.Module) -> nn.Module:
    fill_(module)
    return module.double()


def contents() -> tuple[Tensor, Tensor]:
    """a and b on every place: two times (1, N, C)."""
    a, b = (draw(1, 1, DIM, seed=s, dtype=torch.float64).expand(1, N, DIM) for s in (1, 2))
    return a, b


def asked(a: Tensor, b: Tensor) -> Tensor:
    """The scores of tokens a (B, N, C) as queries to tokens b as keys: (B, N, N)."""
    wq, wk = (draw(DIM, DIM, seed=s, dtype=torch.float64) for s in (3, 4))
    return (a @ wq) @ (b @ wk).mT / DIM


def added(position: Callable[[Tensor], Tensor]) -> Tensor:
    a, b = contents()
    return asked(position(a), position(b))[0]


def line(code: Callable[[int, int], Tensor]) -> Tensor:
    return added(lambda x: x + code(N, DIM))


def turned(position: nn.Module) -> Tensor:
    a, b = (t.unflatten(-1, (2, -1)).transpose(1, 2) for t in contents())
    return (position(a, GRID) @ position(b, GRID).mT)[0].sum(0)


def gated() -> Tensor:
    """How much more or less a place is looked at than one's own: the whole is cut off at the border and sums to 1."""
    mixer = noisy(GatedPositional(DIM, 1))
    assert isinstance(mixer, GatedPositional)
    weights = mixer.places(GRID)[0].log()
    return weights - weights.diagonal()[:, None]


def conditional() -> Tensor:
    """a and b on every two places of a map of one and the same token, with a border of it around them."""
    position, (h, w) = noisy(ConditionalPosition(DIM)), (GRID[0] + 2, GRID[1] + 2)
    inner = torch.arange(h * w).view(h, w)[1:-1, 1:-1].flatten()
    p, q, every = inner.repeat_interleave(N), inner.repeat(N), torch.arange(N * N)
    x = draw(1, 1, DIM, seed=5, dtype=torch.float64).repeat(N * N, h * w, 1)
    a, b = contents()
    x[every, p] += a[0, 0]
    x[every, q] += b[0, 0]
    out = position(x, (h, w))
    return asked(out[every, p][:, None], out[every, q][:, None]).view(N, N)


BLIND: dict[str, Callable[[], Tensor]] = {
    "relative_bias": lambda: noisy(RelativeBias(5, 1))()[0], "log_bias": lambda: noisy(LogBias(5, 1))(GRID)[0],
    "gated_position": gated, "conditional": conditional, "rotary_2d": lambda: turned(Rotary2d(DIM, 2)),
    "rotary_2d_mixed": lambda: turned(noisy(MixedRotary2d(DIM, 2))),
}
SEEING: dict[str, Callable[[], Tensor]] = {
    "sinusoidal": lambda: added(Sinusoidal(DIM)), "integer_position": lambda: line(integers),
    "normalised_position": lambda: line(normalised), "binary_position": lambda: line(bits),
    "sine_only_position": lambda: line(sines), "sincos_2d": lambda: added(lambda x: SinCos2d(DIM)(x, GRID)),
    "learned": lambda: added(lambda x: noisy(PositionTable(GRID, DIM))(x, GRID)),
    "sine_2d": lambda: added(lambda x: x + Sine2d(DIM)(x.unflatten(1, GRID)).flatten(1, 2)),
}


def moved(scores: Tensor) -> float:
    """How much a score (of N places to N places) changes where both tokens move one step down and one to the right."""
    at = scores.unflatten(1, GRID).unflatten(0, GRID)
    return float((at[1:, 1:, 1:, 1:] - at[:-1, :-1, :-1, :-1]).abs().max() / at.std())


@pytest.mark.parametrize("name", BLIND)
@torch.no_grad()
def test_sees_only_the_offset(name: str) -> None:
    scores = BLIND[name]()
    assert moved(scores) < 1e-12
    assert scores.std() > 0.01                          # and the offset it does see


@pytest.mark.parametrize("name", SEEING)
@torch.no_grad()
def test_sees_the_place_itself(name: str) -> None:
    assert moved(SEEING[name]()) > 0.1


def test_every_code_is_judged() -> None:
    modules = [m.name for m in pkgutil.iter_modules(vitrail.positions.__path__) if m.name != "relative_2d"]
    names = {name for m in modules for name, value in vars(importlib.import_module(f"vitrail.positions.{m}")).items()
             if isinstance(value, Position)}
    assert names == set(BLIND) | set(SEEING)


def test_the_conditional_code_moves_with_its_content() -> None:
    """A blob amid nothing, one step further: the code is one step further too, until it meets the border."""
    position, blob = noisy(ConditionalPosition(4)), torch.zeros(1, 7, 8, 4, dtype=torch.float64)
    blob[:, 2:4, 2:5] = draw(2, 3, 4, dtype=torch.float64)
    here, there = (position(x.flatten(1, 2), (7, 8)).unflatten(1, (7, 8)) for x in (blob, blob.roll((1, 1), (1, 2))))
    torch.testing.assert_close(here.roll((1, 1), (1, 2))[:, 1:-1, 1:-1], there[:, 1:-1, 1:-1])
