"""The report's figures as inline SVG."""
import io
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

INK, GLASS, EMBER, LEAF = "#22303c", "#2b6cb0", "#c05621", "#2f855a"
_STYLE: Any = {
    "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9, "axes.edgecolor": "#94a3b8",
    "axes.labelcolor": INK, "text.color": INK, "xtick.color": INK, "ytick.color": INK, "axes.spines.top": False,
    "axes.spines.right": False, "axes.grid": True, "grid.color": "#e2e8f0", "figure.facecolor": "none",
    "axes.facecolor": "none", "svg.hashsalt": "vitrail",
}


def _svg(figure: Figure) -> str:
    text = io.StringIO()
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")      # the browser has more fonts
        figure.savefig(text, format="svg", bbox_inches="tight", metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    return svg[svg.index("<svg"):]


def _axes(width: float, height: float, columns: int = 1) -> tuple[Figure, list[Axes]]:
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        made = figure.subplots(1, columns, squeeze=False)
    return figure, list(made[0])


def curves(train: Sequence[Mapping[str, Any]], evaluation: Sequence[Mapping[str, Any]], headline: str) -> str:
    """Loss, headline score and learning rate against the epoch."""
    figure, (loss, score, rate) = _axes(10, 2.6, 3)
    steps = max((r["step"] / r["epoch"] for r in evaluation), default=1.0)      # of an epoch
    at = [r["step"] / steps for r in train]
    dot = "." if len(train) < 30 else ""            # a line of one point would not be seen
    loss.plot(at, [r["loss"] for r in train], color=GLASS, lw=1, marker=dot, label="training")
    held = [(r["epoch"], r["nll"]) for r in evaluation if "nll" in r]
    if held:
        loss.plot(*zip(*held, strict=True), color=EMBER, lw=1.4, marker=".", label="held out (NLL)")
    loss.set(xlabel="epoch", title="loss")
    loss.legend(frameon=False)
    score.plot([r["epoch"] for r in evaluation], [100 * r[headline] for r in evaluation], color=LEAF, marker=".")
    score.set(xlabel="epoch", ylabel="%", title=f"held-out {headline.replace('top1', 'top-1')}")
    rate.plot(at, [r.get("lr", float("nan")) for r in train], color=INK, lw=1, marker=dot)
    rate.set(xlabel="epoch", title="learning rate")
    for axes in (loss, score, rate):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return _svg(figure)


def confusion(counts: NDArray[Any], labels: Sequence[str]) -> str:
    """Rows are the truth, columns the answers; colour is the share of the row."""
    n = len(labels)
    side = min(8.0, 1.8 + 0.42 * n)
    figure, (axes,) = _axes(side, side)
    shares = counts / counts.sum(1, keepdims=True).clip(1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.grid(False)
    if n <= 30:
        short = [x if len(x) <= 18 else x[:17] + "…" for x in labels]
        axes.set_xticks(range(n), short, rotation=90 if max(map(len, short)) > 2 else 0, parse_math=False)
        axes.set_yticks(range(n), short, parse_math=False)      # a class called $x is a name, not a formula
        for i in range(n):
            for j in range(n):
                if counts[i, j]:
                    axes.text(j, i, str(int(counts[i, j])), ha="center", va="center", fontsize=7,
                              color="white" if shares[i, j] > 0.5 else INK)
    axes.set(xlabel="answer", ylabel="truth")
    return _svg(figure)


def calibration(bins: Sequence[Any]) -> str:
    """Accuracy against confidence, bin by bin, over the line where they agree."""
    figure, (axes,) = _axes(3.6, 3.2)
    axes.plot([0, 1], [0, 1], color="#94a3b8", lw=1, ls="--")
    full = [b for b in bins if b.samples]
    most = max((b.samples for b in full), default=1)
    axes.scatter([b.confidence for b in full], [b.accuracy for b in full], color=GLASS, zorder=3,
                 s=[20 + 180 * b.samples / most for b in full], alpha=0.8)
    axes.set(xlim=(0, 1.02), ylim=(0, 1.02), xlabel="confidence", ylabel="accuracy")
    return _svg(figure)
