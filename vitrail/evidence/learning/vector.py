"""Vector attention in the place of convolution: how many parameters it needs, and how well it resists attacks.

Zhao et al., CVPR 2020, arXiv:2004.13621.
"""
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.evidence.claims.claim import Outcome
from vitrail.evidence.learning.plots import lines, rows
from vitrail.evidence.learning.loop import (Budget, Found, Make, learn, measure, named, new, paired, percent, plain,
                                            points, right, score, teach)
from vitrail.evidence.learning.pictures import Pictures
from vitrail.evidence.learning.small_nets import resnet

_SAN: dict[str, Any] = dict(dim=32, depths=(1, 1, 1), window=(3, 5, 3), share=4)
CNN, PAIRS, PATCHES = "ResNet", "SAN, pairwise", "SAN, patchwise"
NETS: dict[str, Make] = {CNN: resnet(16), PAIRS: named("san10_pairwise", **_SAN),
                         PATCHES: named("san10_patchwise", **_SAN)}
BUDGET = Budget(steps=600, batch=64, lr=8e-3)
COUNTS = {"digits": 1438, "textures": 1438}
MARGIN = 0.01                       # of held-out top-1 that a match may lack
FEWER = 0.86                        # of the ResNet's parameters, at most: SAN10-patchwise has 0.86 of ResNet-26's
RADII = (0.03, 0.06, 0.12)           # in deviations of the pixels
STEPS = 10


def san_parameters(smoke: bool) -> Outcome:
    return matched(measure({name: partial(learn, make, BUDGET.of(smoke)) for name, make in NETS.items()}, COUNTS,
                           smoke=smoke), parameters())


def parameters() -> dict[str, int]:
    return {name: sum(p.numel() for p in make(10).parameters()) for name, make in NETS.items()}


def matched(found: Found, params: dict[str, int]) -> Outcome:
    top1 = {name: one["top1"] for name, one in found.items()}
    lead = {name: paired(top1[name], top1[CNN]) for name in (PAIRS, PATCHES)}
    return Outcome(
        held=all(one.low > -MARGIN and params[name] <= FEWER * params[CNN] for name, one in lead.items()),
        finding=f"The ResNet with {params[CNN]:,} parameters tells {percent(top1[CNN])} right; "
                + "; ".join(f"{name} with {params[name]:,}, {params[name] / params[CNN]:.2f} of them, is "
                            f"{points(one)} ahead" for name, one in lead.items()) + ".",
        numbers={"top1": top1, "params": params, "lead": {name: plain(one) for name, one in lead.items()}},
        figure=rows(top1, x="held-out top-1, %"))


def attacked(model: nn.Module, images: Tensor, labels: Tensor, radius: float) -> Tensor:
    """Images within `radius` of the given ones, pixel by pixel, that raise the loss: projected gradient steps
    (Madry et al., ICLR 2018, arXiv:1706.06083)."""
    seen = images.clone()
    for _ in range(STEPS):
        seen.requires_grad_(True)
        loss = F.cross_entropy(model(seen), labels)
        slope, = torch.autograd.grad(loss, seen)
        with torch.no_grad():
            seen = images + (seen + radius / 4 * slope.sign() - images).clamp(-radius, radius)
    return seen.detach()


def resists(net: str, budget: Budget, pictures: Pictures, seed: int) -> dict[str, float]:
    """The held-out share told right, clean and at each radius of attack."""
    model = teach(new(NETS[net], pictures, seed), pictures, budget, seed)
    found = {"0": score(model, pictures)}
    for radius in RADII:
        images = attacked(model, pictures.held_out, pictures.held_labels, radius)
        found[f"{radius:g}"] = right(model, images, pictures.held_labels)
    return found


def adversarial(smoke: bool) -> Outcome:
    return resisted(measure({net: partial(resists, net, BUDGET.of(smoke)) for net in NETS}, COUNTS, smoke=smoke))


def resisted(found: Found) -> Outcome:
    def under(net: str) -> list[float]:
        """The mean over the radii, seed by seed."""
        return [sum(seed) / len(seed) for seed in zip(*(found[net][f"{r:g}"] for r in RADII), strict=True)]

    lead = {net: paired(under(net), under(CNN)) for net in (PAIRS, PATCHES)}
    clean = ", ".join(f"{net} {percent(one['0'])}" for net, one in found.items())
    return Outcome(
        held=all(one.low > 0 for one in lead.values()),
        finding=f"Under attack the ResNet tells {percent(under(CNN))} right, the mean over the radii; "
                + "; ".join(f"{net} is {points(one)} ahead" for net, one in lead.items()) + f". Clean: {clean}.",
        numbers={"top1": found, "lead": {net: plain(one) for net, one in lead.items()}},
        figure=lines({net: {float(r): values for r, values in one.items()} for net, one in found.items()},
                     x="radius of the attack, in deviations of the pixels", y="held-out top-1, %"))


RUNS = {"san_parameters": san_parameters, "adversarial": adversarial}
