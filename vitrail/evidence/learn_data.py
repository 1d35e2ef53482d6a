"""What little data does to networks with and without a bias for images."""
from functools import partial
from typing import Any

import torch
from matplotlib.figure import Figure

from vitrail.evidence.claim import Outcome
from vitrail.evidence.lessons import SEEDS, Budget, ask, paired, plain, points, score, teach
from vitrail.evidence.pictures import digits, textures
from vitrail.models import create_model
from vitrail.report.style import EMBER, GLASS, make_axes
from vitrail.tasks.classification.intervals import student_t

Net = tuple[str, dict[str, Any]]
VIT: Net = ("deit_ti16", dict(image=24, patch=4, dim=48, depth=4, heads=4))
CONVIT: Net = ("convit_ti", dict(image=24, patch=4, dim=48, depth=4, heads=4, local=3))
CNN: Net = ("resnet18", dict(dim=12, depths=(1, 1, 1, 1)))
SETS = {"digits": digits, "textures": textures}
COUNTS = (100, 400, 1438)                   # of digits, and of textures
BUDGET = Budget(steps=1000)


def learnt(net: Net, pictures: str, count: int, seed: int, budget: Budget) -> float:
    """The held-out share that a network tells right, taught with `count` images."""
    found = SETS[pictures](24).few(count, seed)
    torch.manual_seed(seed)
    model = create_model(net[0], classes=found.classes, **net[1]).train()
    return score(teach(model, found, budget, seed), found)


def curves(nets: dict[str, Net], smoke: bool) -> dict[str, dict[int, list[float]]]:
    """For each network and count of images, the held-out share of each seed, the mean over both sets of pictures."""
    seeds, counts = (2, COUNTS[:2]) if smoke else (SEEDS, COUNTS)
    budget = Budget(steps=2) if smoke else BUDGET
    keys = [(name, count, seed) for name in nets for count in counts for seed in range(seeds)]
    shares = ask([partial(learnt, nets[name], pictures, count, seed, budget)
                  for name, count, seed in keys for pictures in SETS], smoke=smoke)
    found: dict[str, dict[int, list[float]]] = {name: {count: [] for count in counts} for name in nets}
    for at, (name, count, _) in enumerate(keys):
        found[name][count].append(sum(shares[len(SETS) * at:][:len(SETS)]) / len(SETS))
    return found


def gaps(found: dict[str, dict[int, list[float]]], better: str, other: str) -> tuple[bool, str, dict[str, Any]]:
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


def drawn(found: dict[str, dict[int, list[float]]]) -> Figure:
    figure, (axes,) = make_axes(5, 3)
    for colour, (name, by) in zip((GLASS, EMBER), found.items(), strict=True):
        means = [student_t(values) for values in by.values()]
        axes.errorbar(list(by), [100 * m.value for m in means], yerr=[100 * (m.high - m.value) for m in means],
                      color=colour, marker="o", capsize=3, label=name)
    axes.set(xscale="log", xlabel="training images", ylabel="held-out top-1, %")
    axes.set_xticks(list(next(iter(found.values()))), [str(c) for c in next(iter(found.values()))])
    axes.minorticks_off()
    axes.legend(frameon=False)
    return figure


def needs_data(smoke: bool) -> Outcome:
    found = curves({"a small ResNet": CNN, "a small ViT": VIT}, smoke)
    held, told, numbers = gaps(found, "a small ResNet", "a small ViT")
    return Outcome(held=held, finding=told[0].upper() + told[1:], numbers=numbers, figure=drawn(found))


def convit_sample_efficiency(smoke: bool) -> Outcome:
    found = curves({"ConViT": CONVIT, "DeiT": VIT}, smoke)
    held, told, numbers = gaps(found, "ConViT", "DeiT")
    return Outcome(held=held, finding=told, numbers=numbers, figure=drawn(found))


RUNS = {"needs_data": needs_data, "convit_sample_efficiency": convit_sample_efficiency}
