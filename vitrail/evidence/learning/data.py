"""What little data does to networks with and without a bias for images."""
from collections.abc import Mapping
from functools import partial
from typing import Any

from matplotlib.figure import Figure

from vitrail.evidence.claims.claim import Outcome
from vitrail.evidence.learning.plots import lines
from vitrail.evidence.learning.loop import SIZE, Budget, Make, learn, measure, named, paired, plain, points
from vitrail.evidence.learning.small_nets import resnet

_SMALL: dict[str, Any] = dict(image=SIZE, patch=4, dim=64, depth=4, heads=4)
VIT, CONVIT = named("deit_ti16", **_SMALL), named("convit_ti", **_SMALL, local=3)
CNN = resnet(24)
COUNTS = (100, 400, 1438)                   # of digits, and of textures
BUDGET = Budget()

Curves = Mapping[str, Mapping[float, list[float]]]


def curves(nets: Mapping[str, Make], smoke: bool) -> Curves:
    """For each network and count of images, the held-out share of each seed, the mean over both sets of pictures."""
    counts = COUNTS[:2] if smoke else COUNTS
    arms = {name: partial(learn, make, BUDGET.of(smoke)) for name, make in nets.items()}
    by = {count: measure(arms, {"digits": count, "textures": count}, smoke=smoke) for count in counts}
    return {name: {count: by[count][name]["top1"] for count in counts} for name in nets}


def gaps(found: Curves, better: str, other: str) -> tuple[bool, str, dict[str, Any]]:
    """Whether `better` leads where images are fewest, and by more than where they are most; in words, and numbers."""
    counts = list(found[better])
    lead = {count: paired(found[better][count], found[other][count]) for count in counts}
    few, many = counts[0], counts[-1]
    apart = {count: [a - b for a, b in zip(found[better][count], found[other][count], strict=True)] for count in counts}
    closes = paired(apart[few], apart[many])
    told = (f"{better} leads {other} by {', '.join(f'{points(lead[c])} with {c} images' for c in counts)}; from {few} "
            f"to {many} the lead shrinks by {points(closes)}.")
    numbers = {"top1": {name: {str(c): values for c, values in by.items()} for name, by in found.items()},
               "lead": {str(c): plain(one) for c, one in lead.items()}, "shrinks": plain(closes)}
    return lead[few].low > 0 and closes.low > 0, told, numbers


def drawn(found: Curves) -> Figure:
    return lines(found, x="training images", y="held-out top-1, %", log=True)


def needs_data(smoke: bool) -> Outcome:
    found = curves({"a small ResNet": CNN, "a small ViT": VIT}, smoke)
    held, told, numbers = gaps(found, "a small ResNet", "a small ViT")
    return Outcome(held=held, finding=told[0].upper() + told[1:], numbers=numbers, figure=drawn(found))


def convit_sample_efficiency(smoke: bool) -> Outcome:
    found = curves({"ConViT": CONVIT, "DeiT": VIT}, smoke)
    held, told, numbers = gaps(found, "ConViT", "DeiT")
    return Outcome(held=held, finding=told, numbers=numbers, figure=drawn(found))


RUNS = {"needs_data": needs_data, "convit_sample_efficiency": convit_sample_efficiency}
