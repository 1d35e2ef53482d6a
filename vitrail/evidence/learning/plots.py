"""The figures of the claims about learning: means over seeds, with Student's 95 % intervals."""
from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from vitrail.figures.style import EMBER, GLASS, INK, LEAF, make_axes
from vitrail.measure.intervals import student_t

COLOURS = (GLASS, EMBER, LEAF, INK)


def lines(found: Mapping[str, Mapping[float, Sequence[float]]], *, x: str, y: str, log: bool = False,
          ticks: bool = True, factor: float = 100) -> Figure:
    """A line a name over numbers, each with its values of the seeds. ticks: one at each number."""
    figure, (axes,) = make_axes(5, 3)
    for colour, (name, by) in zip(COLOURS, found.items(), strict=False):
        means = [student_t(values) for values in by.values()]
        axes.errorbar(list(by), [factor * m.value for m in means], yerr=[factor * (m.high - m.value) for m in means],
                      color=colour, marker="o", markersize=4, capsize=3, label=name)
    axes.set(xlabel=x, ylabel=y, xscale="log" if log else "linear")
    if ticks:
        numbers = sorted({n for by in found.values() for n in by})
        axes.set_xticks(numbers, [f"{n:g}" for n in numbers])
        axes.minorticks_off()
    axes.legend(frameon=False)
    return figure


def rows(found: Mapping[str, Sequence[float]], *, x: str, factor: float = 100) -> Figure:
    """A row a name: each seed as a dot, their mean with its interval."""
    figure, (axes,) = make_axes(5.5, 0.6 + 0.42 * len(found))
    for at, values in enumerate(found.values()):
        mean = student_t(values)
        axes.plot([factor * v for v in values], [at] * len(values), "o", color=GLASS, alpha=0.35, markersize=4)
        axes.errorbar([factor * mean.value], [at], xerr=[factor * (mean.high - mean.value)], color=EMBER, marker="D",
                      markersize=5, capsize=3)
    axes.set_yticks(range(len(found)), list(found))
    axes.set(xlabel=x, ylim=(len(found) - 0.5, -0.5))
    return figure
