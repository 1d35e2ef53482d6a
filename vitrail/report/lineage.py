"""The lineage of the field as a picture: papers by the year they appeared, and a line to each from those it builds on.

A solid line is an idea (`Paper.ideas`), a heavy one an idea whose file is imported too, a dashed one an import alone
(`Paper.builds_on`). An idea that also comes by way of a nearer paper is left out, but for the paper in focus: else
every paper would have a line from the Transformer.
"""
import textwrap
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path

from vitrail.core import lineage
from vitrail.report.lineage_layout import Arranged, Line, arrange
from vitrail.figures.style import EMBER, GLASS, INK, LEAF, PLUM, make_axes

COLOURS = {"backbones": GLASS, "attention": EMBER, "positions": LEAF, "foundations": PLUM, "not here": "#718096"}
STYLES: dict[str, tuple[float, Any]] = {"idea": (0.9, "-"), "both": (2.0, "-"), "import": (1.2, (0, (3, 2)))}
CALLED = {"idea": "builds on the idea", "both": "builds on the idea, imports the file", "import": "imports the file"}
NOTE = ("By the year of the first preprint, else of publication. An idea that also comes by way of a nearer paper is "
        "not drawn.")
COLUMN, ROW = 1.55, 0.36        # inches
BOX = (0.70, 0.74)              # of these


@dataclass(frozen=True)
class Node:
    """A paper, the year it appeared, the papers whose ideas it takes, and the modules that its file imports."""

    key: str
    year: int
    ideas: tuple[str, ...] = ()
    imports: tuple[str, ...] = ()


def papers() -> dict[str, Node]:
    """Every paper of the lineage by its key, those without a file here among them."""
    return {key: Node(key, paper.appeared[0], tuple(idea.of for idea in paper.ideas), paper.builds_on)
            for key, paper in lineage.papers().items()}


def overview() -> dict[str, Node]:
    """The papers that have a file here, and of the others those that two or more build on: a picture of all holds no
    more. `vitrail tree NAME` shows the rest."""
    return {key: node for key, node in papers().items() if "." in key or len(lineage.followers()[key]) > 1}


def relatives(nodes: Mapping[str, Node], key: str) -> dict[str, Node]:
    """A paper, all that it builds on and all that build on it, at any remove, and what is imported among them."""
    wanted = {key} | lineage.ancestry(key) | lineage.posterity(key)
    wanted |= set(nodes[key].imports) | set(lineage.importers()[key])
    return {key: node for key, node in nodes.items() if key in wanted}


def edges(nodes: Mapping[str, Node], *, focus: str = "") -> dict[Line, str]:
    """(older, newer) of each line that is drawn, and whether it is an "idea", an "import" or "both"."""
    above = _above(nodes)
    lines = dict[Line, str]()
    for new, node in nodes.items():
        for old in {*node.ideas, *node.imports} & set(nodes):
            detour = any(old in above[nearer] for nearer in node.ideas if nearer in nodes)
            if old not in node.ideas:
                lines[old, new] = "import"
            elif old in node.imports:
                lines[old, new] = "both"
            elif focus in (old, new) or not detour:
                lines[old, new] = "idea"
    return lines


def _above(nodes: Mapping[str, Node]) -> dict[str, frozenset[str]]:
    """All that each paper builds on as ideas, at any remove, among the nodes."""
    above = dict[str, frozenset[str]]()

    def climb(key: str) -> frozenset[str]:
        if key not in above:
            ideas = [old for old in nodes[key].ideas if old in nodes]
            above[key] = frozenset(ideas).union(*(climb(old) for old in ideas))
        return above[key]

    for key in nodes:
        climb(key)
    return above


def picture(nodes: Mapping[str, Node], title: str = "", *, focus: str = "") -> Figure:
    """The papers in frames, years from left to right, and a curve for each line of descent, whose gid names its
    ends."""
    lines = edges(nodes, focus=focus)
    arranged = arrange({key: node.year for key, node in nodes.items()}, lines)
    wide = max(last for _, last in arranged.years.values()) + 1
    high = max(row for _, row in arranged.places.values()) + 1
    figure, (axes,) = make_axes(COLUMN * wide, ROW * (high + 3.75))
    axes.set(xlim=(-0.5, wide - 0.5), ylim=(high + 0.5, -2.4))
    axes.axis("off")
    for i, (year, (first, last)) in enumerate(arranged.years.items()):
        axes.axvspan(first - 0.5, last + 0.5, color="#eef2f7" if i % 2 else "#f8fafc", zorder=0, lw=0)
        axes.text((first + last) / 2, -1.1, str(year), ha="center", va="center", fontsize=11, weight="bold", color=INK)
    for line, kind in sorted(lines.items()):
        axes.add_patch(_curve(arranged, line, kind))
    for key in nodes:
        _box(axes, key, arranged.places[key], focused=key == focus)
    if any(row >= arranged.alone for _, row in arranged.places.values()):
        axes.text(-0.42, arranged.alone - 0.9, "with no relative here", fontsize=9, style="italic", color=INK,
                  va="center")
    if title:
        axes.text(-0.42, -2.0, title, fontsize=13, weight="bold", color=INK, va="center")
    axes.text(-0.42, high, NOTE, fontsize=8, style="italic", color=INK, va="center")
    _legend(axes, nodes, lines.values())
    return figure


def _kind(key: str) -> str:
    """The package of a module, which has a colour; an ancestor is "not here"."""
    return key.partition(".")[0] if "." in key else "not here"


def _colour(key: str) -> str:
    return COLOURS.get(_kind(key), INK)


def _legend(axes: Axes, nodes: Mapping[str, Node], kinds: Collection[str]) -> None:
    frames = [Line2D([], [], ls="", marker="s", color=colour, label=kind) for kind, colour in COLOURS.items()
             if any(_kind(key) == kind for key in nodes)]
    lines = [Line2D([], [], color=INK, lw=width, ls=dashes, label=CALLED[kind])
             for kind, (width, dashes) in STYLES.items() if kind in kinds]
    axes.legend(handles=[*frames, *lines], loc="upper right", frameon=False, ncols=len(frames) + len(lines), fontsize=9,
                borderaxespad=0.0)


def _curve(arranged: Arranged, line: Line, kind: str) -> FancyArrowPatch:
    """From the side of a box, through the lanes between, to the near side of the other."""
    old, new = line
    x0, y0 = arranged.places[old]
    x1, y1 = arranged.places[new]
    way = 1 if x1 > x0 else -1
    half = way * BOX[0] / 2
    vertices = [(x0 + half, y0)]
    codes = [Path.MOVETO]
    for x in range(int(x0) + way, int(x1) + way, way):
        y = y1 if x == x1 else arranged.lanes[old, x]
        a, b = vertices[-1]
        to = (x - half - 0.01 * way * (x == x1), y)
        vertices += [((a + to[0]) / 2, b), ((a + to[0]) / 2, y), to]
        codes += [Path.CURVE4] * 3
        if x != x1:
            vertices.append((x + half, y))
            codes.append(Path.LINETO)
    width, dashes = STYLES[kind]
    return FancyArrowPatch(path=Path(vertices, codes), arrowstyle="-|>", mutation_scale=8, alpha=0.75, zorder=2,
                           color=_colour(old), gid=f"{old} > {new}", lw=width, ls=dashes)


def _box(axes: Axes, key: str, place: tuple[float, float], *, focused: bool) -> None:
    x, y = place
    width, height = BOX
    here = "." in key
    axes.add_patch(FancyBboxPatch((x - width / 2, y - height / 2), width, height, zorder=3, lw=2.4 if focused else 1.1,
                                  fc="white", ec=_colour(key), boxstyle="round,pad=0,rounding_size=0.12",
                                  ls="-" if here else (0, (2, 2)), mutation_aspect=2.2))
    words = key.rpartition(".")[2].replace("_", " ")
    text = words
    if len(words) > 15:
        text = "\n".join(textwrap.wrap(words, max(12, -(-len(words) // 2) + 2), break_long_words=False))
    axes.text(x, y, text, ha="center", va="center", fontsize=(9, 7.5, 6)[min(text.count("\n"), 2)], linespacing=0.9,
              color=_colour(key), zorder=4, weight="bold" if _kind(key) == "backbones" else "normal")
