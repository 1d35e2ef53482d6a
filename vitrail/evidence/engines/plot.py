"""The figure of a comparison: how many times as long as ours everything else takes."""
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

from vitrail.figures.style import EMBER, GLASS, INK, LEAF, PLUM, make_axes

COLOURS = (GLASS, EMBER, LEAF, PLUM)
AS_IS = "ours as it is"


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """How many times as long as one of ours something takes: the median of the rounds and its quartiles."""

    what: str           # the line it stands on: model, batch, engine
    ours: str
    middle: float
    low: float
    high: float


def ratios(rows: Sequence[dict[str, Any]]) -> list[Ratio]:
    """Those of the rows of `forward.measure` and of `peers.beside`."""
    found = []
    for row in rows:
        net = f"{row['model']}, batch {row['batch']}"
        for name, side in row.get("sides", {}).items():
            for ours, (middle, low, high) in side["over"].items():
                kind = AS_IS if ours == "vitrail fp32" else f"ours {ours}"
                found.append(Ratio(what=f"{net}: {name}", ours=kind, middle=middle, low=low, high=high))
        other = f"{net}: {row['against']} fp32" if "against" in row else f"{net}: as it is"
        told = {AS_IS: row} if "against" in row else {}
        told |= {f"ours optimised {p}": t for p, t in row.get("optimised", {}).items()}
        for kind, of in told.items():
            low, high = of["ratio_quartiles"]
            found.append(Ratio(what=other, ours=kind, middle=of["ratio"], low=low, high=high))
    return found


def plot(rows: Sequence[dict[str, Any]]) -> Figure:
    """A line for each model, batch and engine; on it a dot for each of ours, with the quartiles as a bar."""
    found = ratios(rows)
    lines, kinds = (list(dict.fromkeys(getattr(r, of) for r in found)) for of in ("what", "ours"))
    figure, (axes,) = make_axes(7.5, 1.1 + 0.3 * len(lines))
    axes.axvline(1, color=INK, lw=0.8)
    for at, (kind, colour) in enumerate(zip(kinds, COLOURS * len(kinds), strict=False)):
        these, aside = [r for r in found if r.ours == kind], 0.16 * (at - (len(kinds) - 1) / 2)
        axes.errorbar([r.middle for r in these], [lines.index(r.what) + aside for r in these],
                      xerr=[[r.middle - r.low for r in these], [r.high - r.middle for r in these]],
                      fmt="o", color=colour, markersize=5, capsize=2, lw=1.2, label=f"beside {kind}")
    axes.set_yticks(range(len(lines)), lines)
    axes.set(ylim=(len(lines) - 0.5, -0.5), xlabel="time over ours, median of the rounds with quartiles; right of 1 "
             "ours is faster")
    axes.set_xlim(left=0)
    figure.legend(*axes.get_legend_handles_labels(), frameon=False, loc="outside upper center", ncols=len(kinds))
    return figure
