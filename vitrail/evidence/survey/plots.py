"""The survey's two figures: reported accuracy against measured operations, and against measured throughput."""
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from vitrail.evidence.survey.run import Line
from vitrail.figures.names import Name, place
from vitrail.figures.style import INK, make_axes

# what an axis tells, and whether less of it is better
ACCURACY = {"operations": ("1e9 multiply-adds of one image, measured", True),
            "throughput": ("images a second, optimised, in batches of {batch}, measured", False)}
COLOURS = ("#2b6cb0", "#c05621", "#2f855a", "#805ad5", "#b83280", "#b7791f", "#2c7a7b", "#9b2c2c", "#4a5568", "#5a67d8")
MARKS = ("o", "s", "D", "^", "v", "P", "X")
WIDTH, HEIGHT = 13.0, 8.0


def plot(lines: Sequence[Line], kind: str, batch: int) -> Figure:
    """One of ACCURACY's figures. A family has a colour and a mark, hollow where other images than ImageNet-1k's were
    learned from before; the names of the models that none beats come first, then as many others as have room."""
    title, less = ACCURACY[kind]
    shown = [(x, at) for x in lines if (at := _cost(x, kind, batch)) and x.reported]
    figure, (axes,) = make_axes(WIDTH, HEIGHT)
    axes.set(xscale="log", xlabel=title.format(batch=batch), ylabel="top-1 on ImageNet-1k, %, reported")
    axes.set_title(f"Reported accuracy against measured {kind}", loc="left", size=12, weight="bold", color=INK, pad=10)
    if not shown:
        axes.text(0.5, 0.5, "no model was measured whose accuracy is reported", transform=axes.transAxes, ha="center")
        return figure
    families = list(dict.fromkeys(x.entry.module for x in lines if x.found and x.reported))     # of both figures
    looks = {family: (COLOURS[i % len(COLOURS)], MARKS[i // len(COLOURS) % len(MARKS)])
             for i, family in enumerate(families)}
    points = []
    for line, at in shown:
        assert line.reported is not None
        colour, mark = looks[line.entry.module]
        axes.plot(at, line.reported.top1, mark, ms=6, mec=colour, mew=1.2, zorder=3,
                  color="white" if line.reported.other_data else colour)
        points.append((at, line.reported.top1))
    front = unbeaten(points, less=less)
    ends = [points[i] for i in sorted(front, key=lambda i: points[i])]
    axes.plot(*zip(*ends, strict=True), color=INK, lw=1.2, ls=(0, (4, 3)), alpha=0.5, zorder=1)
    _scale(axes, points)
    here = {family: looks[family] for family in dict.fromkeys(x.entry.module for x, _ in shown)}
    _legend(axes, here, any(x.reported and x.reported.other_data for x, _ in shown))
    order = sorted(range(len(shown)), key=lambda i: (i not in front, -points[i][1]))
    place(axes, [Name(shown[i][0].entry.name, *points[i], looks[shown[i][0].entry.module][0], bold=i in front)
                 for i in order], points)
    return figure


def unbeaten(points: Sequence[tuple[float, float]], *, less: bool) -> set[int]:
    """Those that no other point beats in both: (cost or speed, accuracy), where less of the first is better or more."""
    signed = [(-x if less else x, y) for x, y in points]
    return {i for i, (x, y) in enumerate(signed)
            if not any(a >= x and b >= y and (a, b) != (x, y) for a, b in signed)}


def _cost(line: Line, kind: str, batch: int) -> float | None:
    if line.found is None:
        return None
    if kind == "operations":
        return float(line.found["multiply_adds"]) / 1e9
    told: dict[str, Any] | None = line.found["batches"].get(str(batch))
    return None if told is None else float(told["optimised"]["images_a_second"])


def _scale(axes: Axes, points: Sequence[tuple[float, float]]) -> None:
    """Room around the points for their names, and plain numbers on the axis."""
    xs, ys = zip(*points, strict=True)
    across, up = max(xs) / min(xs), max(max(ys) - min(ys), 1.0)
    axes.set_xlim(min(xs) / max(across, 2.0) ** 0.12, max(xs) * max(across, 2.0) ** 0.12)
    axes.set_ylim(min(ys) - 0.08 * up, max(ys) + 0.08 * up)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=30) if across > 8 else MaxNLocator(6))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.minorticks_off()


def _legend(axes: Axes, looks: dict[str, tuple[str, str]], hollow: bool) -> None:
    handles = [Line2D([], [], ls="", marker=mark, color=colour, label=family.partition(".")[2])
               for family, (colour, mark) in looks.items()]
    if hollow:
        handles.append(Line2D([], [], ls="", marker="o", color="white", mec=INK, label="other images first"))
    handles.append(Line2D([], [], ls=(0, (4, 3)), color=INK, alpha=0.5, label="none is better in both"))
    axes.legend(handles=handles, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8)
