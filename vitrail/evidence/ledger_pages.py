"""The ledger for people: a table in words, a page, and a log-log plot."""
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vitrail.evidence.ledger import TAIL, Row
from vitrail.measure.fit import Growth
from vitrail.report.style import EMBER, GLASS, INK, LEAF, make_axes

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
             f"tokens, one image, inference, in turns in one process that keeps the memory it frees ({where}). Milliseconds and the peak of memory "
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
    """Names beside the lines' ends, moved apart where they would cover one another."""
    if not ends:
        return
    figure: Any = axes.figure
    figure.canvas.draw()
    right = max(x for _, x, _, _ in ends) * 1.25
    axes.set_xlim(right=right * 14)
    low, high = (axes.transData.transform((1, y))[1] for y in axes.get_ylim())
    step = min(0.021 * (high - low), (high - low) / len(ends))
    placed: list[float] = []
    for name, x, y, colour in sorted(ends, key=lambda e: e[2]):
        at = axes.transData.transform((x, y))[1]
        at = max(at, placed[-1] + step) if placed else at
        placed.append(at)
        text_y = axes.transData.inverted().transform((0, at))[1]
        axes.annotate(name, (x, y), (right, text_y), fontsize=7, color=colour, va="center",
                      arrowprops={"arrowstyle": "-", "color": colour, "lw": 0.4, "alpha": 0.6})
