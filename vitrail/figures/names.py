"""Names beside points that do not touch each other, the points, or the edge of a plot."""
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.patheffects import withStroke
from matplotlib.transforms import Bbox

GAP = 5.0               # points of the page between a name and what is beside it
FAR = (7.0, 13.0, 20.0, 28.0, 38.0, 50.0, 64.0, 80.0, 100.0, 125.0)     # from a point to its name, nearest first
TURNS = 16              # directions that are tried


@dataclass(frozen=True)
class Name:
    """A name for the point (x, y) of a plot, in its colour. bold: the ones that must not be missed."""

    text: str
    x: float
    y: float
    colour: str
    bold: bool = False


def place(axes: Axes, names: Sequence[Name], points: Sequence[tuple[float, float]], *, size: float = 7.0,
          radius: float = 4.0) -> list[Name]:
    """Writes as many of the names as have room, the first ones first; returns those that had none.

    points: what no name may cover, a circle of `radius` points each. Limits, scales and the size of the figure must be
    final. A name further off than its neighbourhood is joined to its point by a thin line, which no name covers either.
    """
    figure = axes.figure.figure
    assert figure is not None
    canvas = FigureCanvasAgg(figure)
    figure.draw_without_rendering()                                 # the layout is settled here
    renderer, unit = canvas.get_renderer(), figure.dpi / 72
    room = axes.get_window_extent(renderer)
    taken = [_box(float(x), float(y), radius * unit) for x, y in map(axes.transData.transform, points)]
    missing: list[Name] = []
    for name in names:
        weight = "bold" if name.bold else "normal"
        text = axes.text(0, 0, name.text, fontsize=size, weight=weight, transform=None)
        extent = text.get_window_extent(renderer)
        text.remove()
        x, y = axes.transData.transform((name.x, name.y))
        for far, box in _around(x, y, extent.width, extent.height, unit):
            line = _steps(x, y, box, radius * unit) if far > FAR[1] else []
            inside = room.x0 <= box.x0 and box.x1 <= room.x1 and room.y0 <= box.y0 and box.y1 <= room.y1
            if inside and not any(part.overlaps(t) for part in (box.padded(GAP / 4 * unit), *line) for t in taken):
                taken += [box.padded(GAP / 2 * unit), *line]
                _write(axes, name, box, size, weight, joined=bool(line))
                break
        else:
            missing.append(name)
    return missing


def _around(x: float, y: float, width: float, height: float, unit: float) -> Iterator[tuple[float, Bbox]]:
    """Places for a name around a point, the nearest first: right, left, above, below, and what lies between."""
    order = sorted(range(TURNS), key=lambda i: (i % (TURNS // 4) != 0, i % (TURNS // 8) != 0, i))
    for far in FAR:
        for turn in order:
            across, up = math.cos(2 * math.pi * turn / TURNS), math.sin(2 * math.pi * turn / TURNS)
            middle = x + across * (far * unit + width / 2), y + up * (far * unit + height / 2)
            yield far, Bbox.from_bounds(middle[0] - width / 2, middle[1] - height / 2, width, height)


def _steps(x: float, y: float, box: Bbox, radius: float) -> list[Bbox]:
    """The line from a point's edge to a name's, as small rectangles."""
    to_x, to_y = min(max(x, box.x0), box.x1), min(max(y, box.y0), box.y1)
    length = math.hypot(to_x - x, to_y - y)
    count = max(int((length - radius) / 2), 0)
    return [_box(x + (to_x - x) * at, y + (to_y - y) * at, 0.5)
            for at in ((radius + 2 * (i + 1)) / length for i in range(count)) if at < 1]


def _box(x: float, y: float, half: float) -> Bbox:
    return Bbox.from_bounds(x - half, y - half, 2 * half, 2 * half)


def _write(axes: Axes, name: Name, box: Bbox, size: float, weight: str, *, joined: bool) -> None:
    across, up = axes.transAxes.inverted().transform(((box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2))
    line = {"arrowstyle": "-", "color": name.colour, "lw": 0.5, "alpha": 0.7, "shrinkA": 0, "shrinkB": 2}
    axes.annotate(name.text, (name.x, name.y), (across, up), textcoords="axes fraction", ha="center", va="center",
                  fontsize=size, weight=weight, color=name.colour, arrowprops=line if joined else None, zorder=5,
                  path_effects=[withStroke(linewidth=2.5, foreground="white")])
