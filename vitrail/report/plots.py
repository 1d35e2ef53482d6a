"""The report's figures as inline SVG."""
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from vitrail.report.style import EMBER, GLASS, INK, LEAF, make_axes, svg


def curves(train: Sequence[Mapping[str, Any]], evaluation: Sequence[Mapping[str, Any]], headline: str) -> str:
    """Loss, headline score and learning rate against the epoch."""
    figure, (loss, score, rate) = make_axes(10, 2.6, 3)
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
    return svg(figure)


def confusion(counts: NDArray[Any], labels: Sequence[str]) -> str:
    """Rows are the truth, columns the answers; colour is the share of the row."""
    n = len(labels)
    side = min(8.0, 1.8 + 0.42 * n)
    figure, (axes,) = make_axes(side, side)
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
