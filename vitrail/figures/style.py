"""How the house's figures look, and how they are written."""
import io
import warnings
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK, GLASS, EMBER, LEAF, PLUM = "#22303c", "#2b6cb0", "#c05621", "#2f855a", "#805ad5"
_STYLE: Any = {
    "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9, "axes.edgecolor": "#94a3b8",
    "axes.labelcolor": INK, "text.color": INK, "xtick.color": INK, "ytick.color": INK, "axes.spines.top": False,
    "axes.spines.right": False, "axes.grid": True, "grid.color": "#e2e8f0", "figure.facecolor": "none",
    "axes.facecolor": "none", "svg.hashsalt": "vitrail",
}


def svg(figure: Figure) -> str:
    """The figure as the text of an SVG element, alike for alike figures."""
    text = io.StringIO()
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")      # the browser has more fonts
        figure.savefig(text, format="svg", bbox_inches="tight", metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    return svg[svg.index("<svg"):]


def make_axes(width: float, height: float, columns: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure of so many inches and its axes, side by side."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        made = figure.subplots(1, columns, squeeze=False)
    return figure, list(made[0])


def png(figure: Figure) -> bytes:
    """The figure as a PNG on white, for pages that cannot hold SVG."""
    data = io.BytesIO()
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(data, format="png", dpi=130, bbox_inches="tight", facecolor="white", metadata={"Software": None})
    return data.getvalue()
