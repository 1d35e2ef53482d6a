"""Figures about a classifier's answers, as inline SVG."""
from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from vitrail.figures.style import GLASS, INK, make_axes, svg


def confusion(counts: NDArray[Any], labels: Sequence[str]) -> str:
    """Counts (K, K): rows are the truth, columns the answers; colour is the share of the row."""
    n = len(labels)
    side = min(8.0, 1.8 + 0.42 * n)
    figure, (axes,) = make_axes(side, side)
    shares = counts / counts.sum(1, keepdims=True).clip(1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.grid(False)
    if n <= 30:
        short = [label if len(label) <= 18 else label[:17] + "…" for label in labels]
        axes.set_xticks(range(n), short, rotation=90 if max(map(len, short)) > 2 else 0, parse_math=False)
        axes.set_yticks(range(n), short, parse_math=False)      # a class called $x is a name, not a formula
        for row in range(n):
            for column in range(n):
                if counts[row, column]:
                    axes.text(column, row, str(int(counts[row, column])), ha="center", va="center", fontsize=7,
                              color="white" if shares[row, column] > 0.5 else INK)
    axes.set(xlabel="answer", ylabel="truth")
    return svg(figure)


def calibration(bins: Sequence[Any]) -> str:
    """Accuracy against confidence, bin by bin, over the line where they agree."""
    figure, (axes,) = make_axes(3.6, 3.2)
    axes.plot([0, 1], [0, 1], color="#94a3b8", lw=1, ls="--")
    full = [b for b in bins if b.samples]
    most = max((b.samples for b in full), default=1)
    axes.scatter([b.confidence for b in full], [b.accuracy for b in full], color=GLASS, zorder=3,
                 s=[20 + 180 * b.samples / most for b in full], alpha=0.8)
    axes.set(xlim=(0, 1.02), ylim=(0, 1.02), xlabel="confidence", ylabel="accuracy")
    return svg(figure)
