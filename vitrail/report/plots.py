"""The report's own figure as inline SVG: how the training went."""
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.ticker import MaxNLocator

from vitrail.core.score import Metric
from vitrail.figures.style import EMBER, GLASS, INK, LEAF, make_axes, svg


def curves(train: Sequence[Mapping[str, Any]], evaluation: Sequence[Mapping[str, Any]], headline: str,
           metric: Metric) -> str:
    """Loss, headline score and learning rate against the epoch."""
    figure, (loss, score, rate) = make_axes(10, 2.6, 3)
    steps = max((record["step"] / record["epoch"] for record in evaluation), default=1.0)      # of an epoch
    epochs = [record["step"] / steps for record in train]
    dot = "." if len(train) < 30 else ""            # a line of one point would not be seen
    loss.plot(epochs, [record["loss"] for record in train], color=GLASS, lw=1, marker=dot, label="training")
    held = [(record["epoch"], record["nll"]) for record in evaluation if "nll" in record]
    if held:
        loss.plot(*zip(*held, strict=True), color=EMBER, lw=1.4, marker=".", label="held out (NLL)")
    loss.set(xlabel="epoch", title="loss")
    loss.legend(frameon=False)
    scale = 100 if metric.share else 1
    score.plot([record["epoch"] for record in evaluation], [scale * record[headline] for record in evaluation],
               color=LEAF, marker=".")
    score.set(xlabel="epoch", ylabel=metric.unit.strip(), title=f"held-out {metric.label}")
    rate.plot(epochs, [record.get("lr", float("nan")) for record in train], color=INK, lw=1, marker=dot)
    rate.set(xlabel="epoch", title="learning rate")
    for axes in (loss, score, rate):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return svg(figure)
