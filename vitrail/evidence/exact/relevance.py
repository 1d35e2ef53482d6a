"""The exact claim about relevance: none is lost, none appears, on its way from a logit to the tokens."""
from typing import Any

import vitrail
from vitrail.evidence.claims.claim import Outcome
from vitrail.evidence.exact.exactness import draw, noisy, seeds, worst
from vitrail.explanation.explained import explained
from vitrail.explanation.propagation import propagate
from vitrail.figures.style import EMBER, GLASS, make_axes

LIMIT = 1e-8            # residuals divide by sums that may be small, so rounding grows with the depth
CLASSES = 5


def relevance_sum(smoke: bool) -> Outcome:
    """The totals of every part, for every class, of a shallow and a deep ViT."""
    numbers: dict[str, dict[str, Any]] = {}
    shown: dict[int, list[float]] = {}
    for depth in (2,) if smoke else (4, 12):
        model = noisy(vitrail.create_model("vit_ti16", image=64, dim=48, heads=3, depth=depth, classes=CLASSES))
        gaps, parts = [], 0
        for seed in seeds(smoke):
            images = draw(2, 3, 64, 64, seed=seed)
            for target in range(CLASSES):
                found = propagate(explained(model), images, target)
                parts = len(found.totals)
                gaps += [float((total - 1).abs().max()) for _, total in found.totals]
        numbers[f"{depth} blocks"] = {"largest_departure_from_1": worst(gaps), "sums": len(gaps), "parts": parts}
        shown[depth] = [float(total[0]) for _, total in found.totals]
        ends = {"image": found.map[0].sum(), "class token": found.prefix[0].sum(), "positions": found.positions[0]}
        numbers[f"{depth} blocks"]["where_one_image_ends"] = {k: round(float(v), 4) for k, v in ends.items()}
    largest = worst(row["largest_departure_from_1"] for row in numbers.values())
    figure, (axes,) = make_axes(8, 3.2)
    for (depth, totals), colour in zip(shown.items(), (EMBER, GLASS), strict=False):
        axes.plot([abs(t - 1) + 1e-17 for t in totals], color=colour, marker=".", label=f"{depth} blocks")
    axes.axhline(LIMIT, color="#94a3b8", ls="--", lw=1)
    axes.set(yscale="log", xlabel="parts passed, from the head to the tokens", title="departure of the total from 1")
    axes.legend(frameon=False)
    return Outcome(
        held=largest <= LIMIT, numbers={"models": numbers, "limit": LIMIT}, figure=figure,
        finding=f"Through every part of ViTs of up to {max(shown)} blocks, attention included, the total stays 1 to "
                f"within {largest:.0e}. What keeps it is the scaling at both products of attention, "
                "each of which would double it. Single relevances have either sign and may exceed the total; the "
                "paper's own picture goes on to multiply with gradients, which keeps no sum.")


RUNS = {"relevance_sum": relevance_sum}
