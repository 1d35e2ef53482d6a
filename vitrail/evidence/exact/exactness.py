"""What the exact claims share: seeded numbers, how far apart two answers are, and bars of such distances."""
from collections.abc import Iterable, Mapping
from typing import TypeVar

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from vitrail.figures.style import EMBER, GLASS, make_axes
from vitrail.testing.noise import fill_

EXACT = 1e-10           # in float64, of the answers' deviation: rounding stays far below, a real difference far above
FLOOR = 1e-18           # where a difference of 0 is drawn

M = TypeVar("M", bound=nn.Module)


def seeds(smoke: bool) -> range:
    """Five, or one."""
    return range(1 if smoke else 5)


def draw(*shape: int, seed: int = 0) -> Tensor:
    """Normal numbers in float64."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def noisy(module: M) -> M:
    """The module in float64 and evaluation mode, every parameter and running average filled with noise."""
    fill_(module)
    return module.double().eval()


def apart(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference over the deviation of `theirs`; nan where either holds one."""
    return float(((ours - theirs).abs().max() / theirs.std()).detach())


def worst(found: Iterable[float]) -> float:
    """The largest; nan where there is one, which Python's max may pass over."""
    return float(torch.tensor(list(found), dtype=torch.float64).max())


def least(found: Iterable[float]) -> float:
    """The smallest; nan where there is one."""
    return -worst(-value for value in found)


def bars(found: Mapping[str, float], *, limit: float = EXACT, title: str) -> Figure:
    """Distances as bars on a logarithmic axis, with the line under which they are rounding."""
    figure, (axes,) = make_axes(8, 0.9 + 0.34 * len(found))
    names, values = list(found), [max(v, FLOOR) for v in found.values()]
    axes.barh(names, [v - FLOOR for v in values], left=FLOOR, height=0.6,
              color=[GLASS if v <= limit else EMBER for v in values])
    for at, value in enumerate(found.values()):
        axes.text(1.6 * values[at], at, f"{value:.1g}", va="center", fontsize=7)
    axes.set_axisbelow(True)
    axes.axvline(limit, color="#94a3b8", lw=1, ls="--")
    axes.set(xscale="log", xlim=(FLOOR, 300 * max(1.0, *values)), xlabel=title)
    axes.invert_yaxis()
    return figure
