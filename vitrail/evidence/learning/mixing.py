"""Convolution and attention in one network: side by side, and one after the other."""
from functools import partial
from typing import Any

from vitrail.evidence.claims.claim import Outcome
from vitrail.evidence.learning.plots import rows
from vitrail.evidence.learning.loop import (Budget, Found, Make, SIZE, learn, measure, named, paired, percent, plain,
                                            points)
from vitrail.evidence.learning.small_nets import bottlenecks

BUDGET = Budget(steps=600, batch=64)
COUNTS = {"digits": 200, "textures": 200}


AUGMENTED: dict[str, Make] = {name: partial(bottlenecks, share) for name, share in
                              (("convolution", 0.0), ("both", 0.5), ("attention", 1.0))}
ORDERS = ("CCTT", "CTCT", "TCTC", "TTCC")
_SMALL: dict[str, Any] = dict(image=SIZE, stem=16, dims=(32, 32, 64, 64), depths=(1, 1, 1, 1), stride=(2, 1, 2, 1))


def order(letters: str) -> Make:
    """A CoAtNet whose stages are of convolution (C) or attention (T)."""
    return named("coatnet_0", **_SMALL, heads=tuple(0 if c == "C" else 2 for c in letters))


def aaconv(smoke: bool) -> Outcome:
    arms = {name: partial(learn, make, BUDGET.of(smoke)) for name, make in AUGMENTED.items()}
    return led(measure(arms, COUNTS, smoke=smoke), "both")


def conv_then_attention(smoke: bool) -> Outcome:
    arms = {letters: partial(learn, order(letters), BUDGET.of(smoke)) for letters in ORDERS}
    return led(measure(arms, COUNTS, smoke=smoke), "CCTT")


def led(found: Found, best: str) -> Outcome:
    """Whether one arm leads every other."""
    top1 = {name: one["top1"] for name, one in found.items()}
    leads = {name: paired(top1[best], values) for name, values in top1.items() if name != best}
    return Outcome(
        held=all(lead.low > 0 for lead in leads.values()),
        finding=f"{best[0].upper() + best[1:]} ({percent(top1[best])}) leads "
                f"{', '.join(f'{name} by {points(lead)}' for name, lead in leads.items())}.",
        numbers={"top1": top1, "leads": {name: plain(lead) for name, lead in leads.items()}},
        figure=rows(top1, x="held-out top-1, %"))


RUNS = {"aaconv": aaconv, "conv_then_attention": conv_then_attention}
