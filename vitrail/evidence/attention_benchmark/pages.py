"""The ledger for people: a table in words, a page, and a log-log plot."""
import math
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vitrail.evidence.attention_benchmark.measure import TAIL, Row
from vitrail.measure.fit import Growth
from vitrail.figures.style import EMBER, GLASS, INK, LEAF, make_axes

STEP = 0.025            # of the height of a plot, from one name to the next
HEAD = ("mechanism", "N", "ms", "MiB", "claimed time", "measured", "claimed memory", "measured")
COLOURS = {"N": LEAF, "N log N": GLASS, "N^1.5": "#b7791f", "N^2": EMBER}


def cells(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """A line a mechanism, the fastest at its largest size first; exponents beyond TAIL tokens, with their intervals."""
    def said(found: Growth | None, exact: bool) -> str:
        if found is None:
            return "-"
        return f"N^{found.exponent:.2f}" if exact else f"N^{found.exponent:.2f} ({found.low:.2f} to {found.high:.2f})"

    ran = sorted((r for r in rows if r.tokens), key=lambda r: (-r.tokens[-1], r.median(-1)))
    return [(r.name, f"{r.tokens[-1]:,}", f"{1e3 * r.median(-1):.1f}", f"{r.peak[-1] / 2**20:.1f}", r.claimed_time,
             said(r.time(), False), r.claimed_memory, said(r.memory(), True)) for r in ran]


def page(rows: Sequence[Row], machine: dict[str, Any], command: str) -> str:
    """The ledger as Markdown, with how it was measured."""
    where = ", ".join(f"{k} {v}" for k, v in machine.items())
    lines = ["# What attention costs", "",
             f"`{command}`: every mechanism as the token mixer of a block, projections included, on square maps of N "
             f"tokens, one image, inference, in turns in one process that keeps the memory it frees ({where}). "
             "Milliseconds and the peak of memory "
             f"are those at the largest N that it was measured at; exponents are those beyond N = {TAIL:,}, of time "
             "with a 95 % bootstrap interval, of memory exact, as every allocation is counted.", "",
             "![time and memory against tokens](attention.png)", "",
             f"| {' | '.join(HEAD)} |", f"|{'---|' * len(HEAD)}", *(f"| {' | '.join(c)} |" for c in cells(rows))]
    left_out = [f"- {r.name}: not measured {r.skipped}." for r in rows if r.skipped]
    return "\n".join([*lines, *(["", *left_out] if left_out else [])]) + "\n"


def plot(rows: Sequence[Row]) -> Figure:
    """Time and peak memory against the tokens, both axes logarithmic; the colour is the claimed order."""
    figure, (time, memory) = make_axes(13, 7.5, 2)
    ran = [r for r in rows if len(r.tokens) > 1]
    for axes, title in ((time, "milliseconds"), (memory, "peak memory, MiB")):
        axes.set(xscale="log", yscale="log", xlabel="tokens N", title=title)
    for row in ran:
        of_time, of_memory = (COLOURS.get(c, INK) for c in (row.claimed_time, row.claimed_memory))
        time.plot(row.tokens, [1e3 * row.median(i) for i in range(len(row.tokens))], color=of_time, lw=1.1, marker=".")
        memory.plot(row.tokens, [p / 2**20 for p in row.peak], color=of_memory, lw=1.1, marker=".")
    _name_ends(time, [(r.name, r.tokens[-1], 1e3 * r.median(-1), COLOURS.get(r.claimed_time, INK)) for r in ran])
    _name_ends(memory, [(r.name, r.tokens[-1], r.peak[-1] / 2**20, COLOURS.get(r.claimed_memory, INK)) for r in ran])
    for order, colour in COLOURS.items():
        time.plot([], [], color=colour, label=f"claimed {order}")
    time.legend(frameon=False, loc="upper left")
    return figure


def _name_ends(axes: Axes, ends: Sequence[tuple[str, float, float, str]]) -> None:
    """Names to the right of the axes, joined to the lines' ends (name, x, y, colour), and apart from one another."""
    if not ends:
        return
    low, high = (math.log(y) for y in axes.get_ylim())
    ranked = sorted(ends, key=lambda e: e[2])
    heights = spread([(math.log(y) - low) / (high - low) for _, _, y, _ in ranked])
    for (name, x, y, colour), height in zip(ranked, heights, strict=True):
        axes.annotate(name, (x, y), (1.03, height), xycoords="data", textcoords="axes fraction", fontsize=7,
                      color=colour, va="center", annotation_clip=False,
                      arrowprops={"arrowstyle": "-", "color": colour, "lw": 0.4, "alpha": 0.6, "relpos": (0, 0.5)})


def spread(heights: Sequence[float]) -> list[float]:
    """Ascending heights in 0 to 1, moved as little as lets each keep its share of the room."""
    step, found = min(1 / max(len(heights), 1), STEP), list[float]()
    for height in heights:                                  # upwards, each at least a step above the one before
        found.append(max(height, found[-1] + step) if found else height)
    top = 1.0
    for i in reversed(range(len(found))):                   # and down again from the upper edge
        found[i] = top = min(found[i], top)
        top -= step
    return found
