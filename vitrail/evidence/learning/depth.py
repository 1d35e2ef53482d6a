"""What depth does to attention maps, with and without re-attention (Zhou et al., arXiv:2103.11886, section 3.2)."""
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vitrail.evidence.claims.claim import Outcome
from vitrail.evidence.learning.plots import lines
from vitrail.evidence.learning.loop import (Budget, Found, SIZE, measure, named, new, paired, percent, plain, score,
                                            teach)
from vitrail.evidence.learning.pictures import Pictures
from vitrail.explanation.record import record
from vitrail.core.score import Score

DEPTH = 16
_DEEP: dict[str, Any] = dict(image=SIZE, patch=4, dim=48, depth=DEPTH, heads=6)
PLAIN, RE = "self-attention", "re-attention"
NETS = {PLAIN: named("deepvit_16b", **_DEEP, plain=DEPTH), RE: named("deepvit_16b", **_DEEP, plain=0)}
BUDGET = Budget(lr=1e-3)
COUNTS = {"digits": 1438, "textures": 1438}


def similarity(a: Tensor, b: Tensor) -> tuple[float, float]:
    """How like two blocks' maps (B, H, N, N) are: the mean cosine of what each token looks at (equation 2), and the
    same of rows without their mean, which a norm's offset cannot change."""
    def cosine(a: Tensor, b: Tensor) -> float:
        return float(F.cosine_similarity(a, b, dim=-1).mean())
    return cosine(a, b), cosine(a - a.mean(-1, keepdim=True), b - b.mean(-1, keepdim=True))


def maps(net: str, budget: Budget, pictures: Pictures, seed: int) -> dict[str, float]:
    """The held-out score, and the likeness of each block's maps to the block's before it, as printed and centred."""
    model = teach(new(NETS[net], pictures, seed), pictures, budget, seed)
    with torch.inference_mode(), record(model) as seen:
        model(pictures.held_out[:64])
    weights = [layer.weights for layer in seen.layers]
    found = {"top1": score(model, pictures)}
    for at, pair in enumerate(zip(weights, weights[1:], strict=False)):
        found[f"cosine {at + 2}"], found[f"centred {at + 2}"] = similarity(*pair)
    return found


def deit_depth_reattention(smoke: bool) -> Outcome:
    return judged(measure({net: partial(maps, net, BUDGET.of(smoke)) for net in NETS}, COUNTS, smoke=smoke))


def judged(found: Found) -> Outcome:
    def mean(net: str, kind: str, first: int, last: int) -> list[float]:
        return [sum(seed) / len(seed) for seed in
                zip(*(found[net][f"{kind} {at}"] for at in range(first, last + 1)), strict=True)]

    quarter, numbers, held, told = DEPTH // 4, {}, True, []
    for kind in ("cosine", "centred"):
        grows = paired(mean(PLAIN, kind, DEPTH - quarter + 1, DEPTH), mean(PLAIN, kind, 2, quarter + 1))
        apart = paired(mean(PLAIN, kind, 2, DEPTH), mean(RE, kind, 2, DEPTH))
        held = held and grows.low > 0 and apart.low > 0
        numbers[kind] = {"grows": plain(grows), "apart": plain(apart)}
        told.append(f"the {kind if kind == 'cosine' else 'centred cosine'} grows by {_number(grows)} from the first "
                    f"quarter to the last, and is {_number(apart)} higher than with re-attention")
    return Outcome(
        held=held,
        finding=f"Of neighbouring blocks' maps under self-attention, {'; '.join(told)}. Held-out top-1: self-attention "
                f"{percent(found[PLAIN]['top1'])}, re-attention {percent(found[RE]['top1'])}.",
        numbers={**numbers, "found": found},
        figure=lines({f"{net}, {kind}": {at: found[net][f"{kind} {at}"] for at in range(2, DEPTH + 1)}
                      for kind in ("cosine", "centred") for net in NETS},
                     x="block", y="likeness to the block before", factor=1))


def _number(score: Score) -> str:
    return f"{score.value:+.3f} ({score.low:+.3f} to {score.high:+.3f})"


RUNS = {"deit_depth_reattention": deit_depth_reattention}
