"""What a ViT learns from a convolutional teacher (Touvron et al., arXiv:2012.12877, section 4 and table 3)."""
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.backbones.deit import DistilledReadout
from vitrail.evidence.claims.claim import Outcome
from vitrail.evidence.learning.plots import rows
from vitrail.evidence.learning.loop import (Budget, Found, SIZE, measure, named, new, paired, percent, plain, points,
                                            right, score, teach)
from vitrail.evidence.learning.pictures import Pictures
from vitrail.evidence.learning.small_nets import resnet
from vitrail.tasks.classification.distill import hard, soft
from vitrail.tasks.classification.model import Classifier

_SMALL: dict[str, Any] = dict(image=SIZE, patch=4, dim=64, depth=4, heads=4)
ONE, TWO = named("deit_ti16", **_SMALL), named("deit_ti16_distilled", **_SMALL, tokens=2)
TEACHER = resnet(24)
BUDGET = Budget()
COUNTS = {"digits": 200, "textures": 200}
TEMPERATURE = 3.0
SOFT = (0.1, 0.5)                   # the teacher's share in equation 2: the paper's, and an even one

NONE, HARD, TOKEN = "no teacher", "hard, class token alone", "hard, a token of its own"
SOFTS = {f"soft, {share:g} of the loss": share for share in SOFT}
TWINS = "two tokens, no teacher"

Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]


def two_logits(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    assert isinstance(model, Classifier) and isinstance(model.head, DistilledReadout)
    return model.head.separate(model.backbone(images))


def losses(teacher: nn.Module) -> dict[str, Loss]:
    """What each student with one token, and each with two, is taught by."""
    def truth(logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels, label_smoothing=BUDGET.smoothing)

    @torch.no_grad()
    def told(images: Tensor) -> Tensor:
        return teacher(images)

    def softly(share: float, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        logits = model(images)
        term = soft(logits, told(images), temperature=TEMPERATURE).mean() * logits.shape[-1]    # equation 2 as printed
        return (1 - share) * truth(logits, labels) + share * term

    def hardly(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        logits = model(images)
        return (truth(logits, labels) + hard(logits, told(images)).mean()) / 2

    def token(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        own, other = two_logits(model, images)
        return (truth(own, labels) + hard(other, told(images)).mean()) / 2

    def twins(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        own, other = two_logits(model, images)
        return (truth(own, labels) + truth(other, labels)) / 2

    return {NONE: lambda model, images, labels: truth(model(images), labels),
            **{name: partial(softly, share) for name, share in SOFTS.items()},
            HARD: hardly, TOKEN: token, TWINS: twins}


@torch.inference_mode()
def likeness(model: nn.Module, images: Tensor) -> float:
    """The mean cosine of what a DeiT's two tokens are behind its last block."""
    assert isinstance(model, Classifier)
    tokens = model.backbone(images).prefix                                  # (B, 2, C)
    return float(F.cosine_similarity(tokens[:, 0], tokens[:, 1], dim=-1).mean())


def students(budget: Budget, pictures: Pictures, seed: int) -> dict[str, float]:
    """One teacher, and every student that it or nobody has."""
    teacher = teach(new(TEACHER, pictures, seed), pictures, budget, seed)
    found = {"teacher": score(teacher, pictures), "agreement": right(teacher, pictures.images, pictures.labels)}
    for name, loss in losses(teacher).items():
        model = teach(new(TWO if name in (TOKEN, TWINS) else ONE, pictures, seed), pictures, budget, seed, loss=loss)
        found[name] = score(model, pictures)
        if name in (TOKEN, TWINS):
            found[f"cosine: {name}"] = likeness(model, pictures.held_out)
    return found


def distillation(smoke: bool) -> Outcome:
    return judged(measure({"students": partial(students, BUDGET.of(smoke))}, COUNTS, smoke=smoke))


def judged(measured: Found) -> Outcome:
    found = measured["students"]
    helps = paired(found[TOKEN], found[NONE])
    over = {name: paired(found[HARD], found[name]) for name in SOFTS}
    alike, apart = found[f"cosine: {TWINS}"], found[f"cosine: {TOKEN}"]
    differ = paired(alike, apart)
    shown = {name: values for name, values in found.items() if not name.startswith(("cosine", "agreement"))}
    return Outcome(
        held=helps.low > 0 and all(one.low > 0 for one in over.values()) and differ.low > 0,
        finding=f"The student with a distillation token leads the one without a teacher ({percent(found[NONE])}) by "
                f"{points(helps)}; hard distillation leads soft by "
                f"{' and '.join(f'{points(one)} ({name})' for name, one in over.items())}; the two tokens' cosine is "
                f"{sum(apart) / len(apart):.3f} with a teacher and {sum(alike) / len(alike):.3f} without, "
                f"{differ.value:+.3f} ({differ.low:+.3f} to {differ.high:+.3f}) apart. The teacher itself tells "
                f"{percent(found['teacher'])} right, and {percent(found['agreement'])} of the training images: as far "
                "as it repeats their labels it has nothing to add to them.",
        numbers={**found, "helps": plain(helps), "over_soft": {name: plain(one) for name, one in over.items()},
                 "differ": plain(differ)},
        figure=rows(shown, x="held-out top-1, %"))


RUNS = {"distillation": distillation}
