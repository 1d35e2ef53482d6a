"""What makes a transformer easy to train: a convolutional stem, and where its norms stand."""
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch.nn.functional as F
from torch import nn

from vitrail.evidence.claims.claim import Outcome
from vitrail.evidence.learning.plots import lines, rows
from vitrail.evidence.learning.loop import (SIZE, Budget, Found, Optimizer, learn, measure, named, new, paired, percent,
                                      plain, points)
from vitrail.evidence.learning.pictures import Pictures
from vitrail.models import create_model
from vitrail.nn import Block, LayerNorm, Mlp, PostResidual, Head, Residual, Stack
from vitrail.measure.intervals import student_t
from vitrail.tasks.classification.model import Classifier

COUNTS = {"digits": 1438, "textures": 1438}

# --- early convolutions

STEMS = {"ViT_P": named("vit_p_1gf", image=SIZE, patch=4, dim=48, depth=4, heads=4),
         "ViT_C": named("vit_c_1gf", image=SIZE, patch=4, stem=(24, 48), dim=48, depth=3, heads=4)}
SHORT = Budget(steps=400)
RATES: dict[Optimizer, tuple[float, ...]] = {"adamw": (3e-4, 1e-3, 3e-3, 1e-2), "sgd": (0.01, 0.03, 0.1, 0.3)}


def early_convolutions(smoke: bool) -> Outcome:
    arms = {f"{net}, {name}, {lr:g}": partial(learn, make, replace(SHORT.of(smoke), optimizer=name, lr=lr))
            for net, make in STEMS.items() for name, rates in RATES.items() for lr in rates}
    return stems_judged(measure(arms, COUNTS, smoke=smoke))


def stems_judged(found: Found) -> Outcome:
    by = {net: {name: {lr: found[f"{net}, {name}, {lr:g}"]["top1"] for lr in rates} for name, rates in RATES.items()}
          for net in STEMS}

    def best(net: str, name: Optimizer) -> list[float]:
        return [max(seed) for seed in zip(*by[net][name].values(), strict=True)]

    def lost(net: str, name: Optimizer) -> list[float]:
        """How far the mean over the rates is below the best of them, seed by seed."""
        return [max(seed) - sum(seed) / len(seed) for seed in zip(*by[net][name].values(), strict=True)]

    def behind(net: str) -> list[float]:
        return [a - b for a, b in zip(best(net, "adamw"), best(net, "sgd"), strict=True)]

    rate, choice = paired(lost("ViT_P", "adamw"), lost("ViT_C", "adamw")), paired(behind("ViT_P"), behind("ViT_C"))
    curves = {f"{net}, {name}": by[net][name] for name in RATES for net in STEMS}
    return Outcome(
        held=rate.low > 0 and choice.low > 0,
        finding=f"Over AdamW's rates ViT_P loses {percent(lost('ViT_P', 'adamw'))} on the best of them and ViT_C "
                f"{percent(lost('ViT_C', 'adamw'))}, a difference of {points(rate)}; SGD at its best is "
                f"{percent(behind('ViT_P'))} behind AdamW with ViT_P and {percent(behind('ViT_C'))} with ViT_C, a "
                f"difference of {points(choice)}.",
        numbers={"top1": {name: one["top1"] for name, one in found.items()}, "rate": plain(rate),
                 "optimizer": plain(choice)},
        figure=lines(curves, x="highest learning rate", y="held-out top-1, %", log=True))


# --- where the norms stand

DEPTH = 8
ORDERS = ("post-norm", "pre-norm")
WARM = Budget(steps=600, lr=2e-3, clip=math.inf)
COLD = replace(WARM, warmup=0.0)


def encoder(order: str, classes: int) -> nn.Module:
    """A ViT with its norms before each branch, or behind each residual and none at the end; Xavier's deviations."""
    model = create_model("vit_ti16", classes=classes, image=SIZE, patch=4, dim=48, depth=DEPTH, heads=4)
    head, blocks = model.head, model.backbone.blocks
    assert isinstance(head, Head) and isinstance(blocks, Stack)
    nn.init.xavier_uniform_(head.linear.weight)                             # born zero, it would hide every gradient
    if order == "post-norm":
        def moved(part: nn.Module) -> PostResidual:
            assert isinstance(part, Residual)
            return PostResidual(part.fn, LayerNorm(48))
        model.backbone.blocks = Stack(Block(moved(block.mix), moved(block.mlp)) for block in blocks
                                      if isinstance(block, Block))
        model.backbone.norm = nn.Identity()
    return model


def begun(order: str, pictures: Pictures, seed: int) -> dict[str, float]:
    """Before the first step, how long the gradient of each block's last matrix is, of all training images' loss."""
    model = new(partial(encoder, order), pictures, seed)
    assert isinstance(model, Classifier)
    F.cross_entropy(model(pictures.images[:512]), pictures.labels[:512]).backward()
    slopes = [part.fc2.weight.grad for part in model.modules() if isinstance(part, Mlp)]
    return {str(at + 1): float(slope.norm()) for at, slope in enumerate(slopes) if slope is not None}


def pre_ln(smoke: bool) -> Outcome:
    arms = {f"{order}, {name}": partial(learn, partial(encoder, order), budget.of(smoke))
            for order in ORDERS for name, budget in (("warm-up", WARM), ("none", COLD))}
    gradients = {order: partial(begun, order) for order in ORDERS}
    return norms_judged(measure(arms, COUNTS, smoke=smoke), measure(gradients, COUNTS, smoke=smoke))


def norms_judged(found: Found, gradients: Found) -> Outcome:
    top1 = {name: one["top1"] for name, one in found.items()}

    def harm(order: str) -> list[float]:
        return [a - b for a, b in zip(top1[f"{order}, warm-up"], top1[f"{order}, none"], strict=True)]

    needs, spared = student_t(harm("post-norm")), paired(harm("post-norm"), harm("pre-norm"))
    larger = paired(*(_logs(gradients[order][str(DEPTH)]) for order in ORDERS))
    ratio = [math.exp(v) for v in (larger.value, larger.low, larger.high)]
    return Outcome(
        held=needs.low > 0 and spared.low > 0 and larger.low > 0,
        finding=f"Without warm-up post-norm loses {points(needs)} and pre-norm {points(student_t(harm('pre-norm')))}, "
                f"{points(spared)} less; at the start the last block's gradient is {ratio[0]:.1f} times as long with "
                f"post-norm ({ratio[1]:.1f} to {ratio[2]:.1f}).",
        numbers={"top1": top1, "gradients": gradients, "needs": plain(needs), "spared": plain(spared),
                 "last_gradient_ratio": dict(zip(("value", "low", "high"), ratio, strict=True))},
        figure=rows(top1, x="held-out top-1, %"))


def _logs(values: Sequence[float]) -> list[float]:
    return [math.log(v) for v in values]


RUNS = {"early_convolutions": early_convolutions, "pre_ln": pre_ln}
