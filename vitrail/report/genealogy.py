"""The genealogy of the field as a picture: papers by year, and a line from each to those that build on it.

Nothing is drawn but what `PAPER.builds_on` declares, which the imports of the papers' files must equal.
"""
import importlib
import textwrap
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path

from vitrail.core.catalogue import entries
from vitrail.figures.style import EMBER, GLASS, INK, LEAF, make_axes

COLOURS = {"backbones": GLASS, "attention": EMBER, "positions": LEAF, "foundations": "#805ad5"}
COLUMN, ROW = 1.55, 0.36        # inches
BOX = (0.70, 0.74)              # of these
ALONE = 8                       # papers without relatives under one another
LANE = 0.35             # rows that a line takes where it passes a column
SWEEPS = 40


@dataclass(frozen=True)
class Node:
    """A paper's module, when it appeared, and the modules of those it builds on."""

    module: str
    year: int
    builds_on: tuple[str, ...]


def papers() -> dict[str, Node]:
    """Every paper of the catalogue by its module, and what they build on besides."""
    found = {e.module: Node(e.module, e.year, e.builds_on) for e in entries().values()}
    waiting = [m for node in found.values() for m in node.builds_on if m not in found]
    while waiting:
        if (module := waiting.pop()) not in found:              # it declares no variant: a paper of words alone
            paper = importlib.import_module(f"vitrail.{module}").PAPER
            found[module] = Node(module, paper.year, paper.builds_on)
            waiting += paper.builds_on
    return found


def edges(nodes: Mapping[str, Node]) -> set[tuple[str, str]]:
    """(ancestor, descendant), both among the nodes."""
    return {(old, node.module) for node in nodes.values() for old in node.builds_on if old in nodes}


def relatives(nodes: Mapping[str, Node], module: str) -> dict[str, Node]:
    """A paper, all that it builds on, and all that build on it, at any remove."""
    def reach(steps: Mapping[str, set[str]]) -> set[str]:
        met, waiting = set[str](), [module]
        while waiting:
            new = steps.get(waiting.pop(), set()) - met
            met |= new
            waiting += new
        return met
    up, down = defaultdict[str, set[str]](set), defaultdict[str, set[str]](set)
    for old, new in edges(nodes):
        up[new].add(old)
        down[old].add(new)
    wanted = {module} | reach(up) | reach(down)
    return {m: node for m, node in nodes.items() if m in wanted}


@dataclass(frozen=True)
class Arranged:
    """places: (column, row) of each paper. years: the first and the last column of each. lanes: the rows in which the
    lines from a paper pass the columns between. alone: the row from which on those without relatives stand.
    """

    places: dict[str, tuple[float, float]]
    years: dict[int, tuple[int, int]]
    lanes: dict[tuple[str, int], float]
    alone: float


def arrange(nodes: Mapping[str, Node]) -> Arranged:
    """Within a year what builds on another stands right of it; a row is near the rows of its relatives, and no line
    passes behind a paper."""
    lines = sorted(edges(nodes))
    related = {m for line in lines for m in line}
    level = dict.fromkeys(nodes, 0)
    for _ in nodes:                                             # as often as the longest line could be
        for old, new in lines:
            if nodes[old].year == nodes[new].year:
                level[new] = max(level[new], level[old] + 1)
    alone = defaultdict[int, list[str]](list)
    for m in sorted(set(nodes) - related):
        alone[nodes[m].year].append(m)
    years, first = dict[int, tuple[int, int]](), 0
    for year in sorted({n.year for n in nodes.values()}):
        deep = max(level[m] for m, n in nodes.items() if n.year == year) + 1
        width = max(deep, -(-len(alone[year]) // ALONE))
        years[year], first = (first, first + width - 1), first + width
    column = {m: years[nodes[m].year][0] + level[m] for m in related}
    lanes, joined = list[_Spot](), list[tuple[_Spot, _Spot]]()
    for old in sorted({o for o, _ in lines}):
        for way in (1, -1):                                     # a preprint may be built on before it is published
            ends = [n for o, n in lines if o == old and (column[n] - column[old]) * way > 0]
            far = max((abs(column[n] - column[old]) for n in ends), default=1)
            spots: list[_Spot] = [(old, column[old] + way * i) for i in range(far)]
            lanes += spots[1:]
            joined += [*zip(spots, spots[1:], strict=False), *(((old, column[n] - way), (n, column[n])) for n in ends)]
    rows = _rows([(m, column[m]) for m in sorted(related)], lanes, joined)
    under = max(rows.values(), default=-2.0) + 2
    places = {m: (float(column[m]), rows[m, column[m]]) for m in related}
    for year, names in alone.items():
        for i, m in enumerate(names):
            places[m] = (float(years[year][0] + i // ALONE), under + i % ALONE)
    return Arranged(places, years, {lane: rows[lane] for lane in lanes}, under)


_Spot = tuple[str, int]         # a paper and its column, or a column that the lines from a paper pass


def _rows(papers: Sequence[_Spot], lanes: Sequence[_Spot], joined: Sequence[tuple[_Spot, _Spot]]) -> dict[_Spot, float]:
    """Rows that keep near each other what is joined, with room between all that share a column."""
    beside, members = defaultdict[_Spot, list[_Spot]](list), defaultdict[int, list[_Spot]](list)
    for one, other in joined:
        beside[one].append(other)
        beside[other].append(one)
    for spot in (*papers, *lanes):
        members[spot[1]].append(spot)
    room = {**dict.fromkeys(papers, 1.0), **dict.fromkeys(lanes, LANE)}
    rows = {spot: float(i) for group in members.values() for i, spot in enumerate(group)}
    for sweep in range(SWEEPS):
        for at in sorted(members, reverse=bool(sweep % 2)):
            wanted = {s: sum(rows[o] for o in beside[s]) / len(beside[s]) for s in members[at]}
            ranked = sorted(members[at], key=lambda s: (wanted[s], rows[s], s))
            rows |= dict(zip(ranked, apart([wanted[s] for s in ranked], [room[s] for s in ranked]), strict=True))
    lowest = min(rows.values(), default=0.0)
    return {spot: row - lowest for spot, row in rows.items()}


def apart(wanted: Sequence[float], room: Sequence[float]) -> list[float]:
    """Ascending numbers, moved as little as leaves each its room to both sides (the sum of squares is least)."""
    starts = [sum(room[:i]) + room[i] / 2 for i in range(len(room))]
    groups: list[tuple[float, int]] = []                        # mean of what is wanted less the start, and how many
    for value, start in zip(wanted, starts, strict=True):
        mean, count = value - start, 1
        while groups and groups[-1][0] > mean:
            before, many = groups.pop()
            mean, count = (before * many + mean * count) / (many + count), many + count
        groups.append((mean, count))
    means = [mean for mean, count in groups for _ in range(count)]
    return [mean + start for mean, start in zip(means, starts, strict=True)]


def picture(nodes: Mapping[str, Node], title: str = "") -> Figure:
    """The papers in boxes, years from left to right, and a curve for each line of descent, whose gid names its ends."""
    found = arrange(nodes)
    wide, high = max(last for _, last in found.years.values()) + 1, max(row for _, row in found.places.values()) + 1
    figure, (axes,) = make_axes(COLUMN * wide, ROW * (high + 3))
    axes.set(xlim=(-0.5, wide - 0.5), ylim=(high - 0.25, -2.4))
    axes.axis("off")
    for i, (year, (first, last)) in enumerate(found.years.items()):
        axes.axvspan(first - 0.5, last + 0.5, color="#eef2f7" if i % 2 else "#f8fafc", zorder=0, lw=0)
        axes.text((first + last) / 2, -1.1, str(year), ha="center", va="center", fontsize=11, weight="bold", color=INK)
    for old, new in sorted(edges(nodes)):
        axes.add_patch(_curve(found, old, new))
    for module in nodes:
        _box(axes, module, *found.places[module])
    if any(row >= found.alone for _, row in found.places.values()):
        axes.text(-0.42, found.alone - 0.9, "with no relative here", fontsize=9, style="italic", color=INK, va="center")
    if title:
        axes.text(-0.42, -2.0, title, fontsize=13, weight="bold", color=INK, va="center")
    kinds = [Line2D([], [], ls="", marker="s", color=c, label=kind) for kind, c in COLOURS.items()
             if any(m.startswith(kind) for m in nodes)]
    axes.legend(handles=kinds, loc="upper right", frameon=False, ncols=len(kinds), fontsize=9, borderaxespad=0.0)
    return figure


def _curve(found: Arranged, old: str, new: str) -> FancyArrowPatch:
    """From the side of a box, through the lanes between, to the near side of the other."""
    (x0, y0), (x1, y1) = found.places[old], found.places[new]
    way = 1 if x1 > x0 else -1
    half = way * BOX[0] / 2
    vertices, codes = [(x0 + half, y0)], [Path.MOVETO]
    for x in range(int(x0) + way, int(x1) + way, way):
        y = y1 if x == x1 else found.lanes[old, x]
        (a, b), to = vertices[-1], (x - half - 0.01 * way * (x == x1), y)
        vertices += [((a + to[0]) / 2, b), ((a + to[0]) / 2, y), to]
        codes += [Path.CURVE4] * 3
        if x != x1:
            vertices.append((x + half, y))
            codes.append(Path.LINETO)
    return FancyArrowPatch(path=Path(vertices, codes), arrowstyle="-|>", mutation_scale=8, lw=1.1, alpha=0.75, zorder=2,
                           color=COLOURS[old.partition(".")[0]], gid=f"{old} > {new}")


def _box(axes: Axes, module: str, x: float, y: float) -> None:
    kind, _, name = module.partition(".")
    width, height = BOX
    axes.add_patch(FancyBboxPatch((x - width / 2, y - height / 2), width, height, zorder=3, fc="white", lw=1.1,
                                  ec=COLOURS[kind], boxstyle="round,pad=0,rounding_size=0.12", mutation_aspect=2.2))
    words = name.replace("_", " ")
    text = "\n".join(textwrap.wrap(words, max(12, -(-len(words) // 2) + 2))) if len(words) > 15 else words
    axes.text(x, y, text, ha="center", va="center", fontsize=(9, 7.5, 6)[min(text.count("\n"), 2)], linespacing=0.9,
              color=COLOURS[kind], zorder=4, weight="bold" if kind == "backbones" else "normal")
