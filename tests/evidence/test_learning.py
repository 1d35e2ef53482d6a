"""The claims about learning: their parts do what they say, and a finding that says otherwise is told as such."""
import math
from typing import Any

import pytest
import torch
from torch import nn

from vitrail.evidence.learning import depth as learn_depth
from vitrail.evidence.learning import distillation as learn_distillation
from vitrail.evidence.learning import ease as learn_ease
from vitrail.evidence.learning import mixing as learn_mixing
from vitrail.evidence.learning import vector as learn_vector
from vitrail.evidence.learning.loop import Found, named
from vitrail.evidence.learning.pictures import digits
from vitrail.evidence.learning.small_nets import bottlenecks, resnet
from vitrail.nn import Conv, PostResidual
from vitrail.figures.style import png

HIGH, LOW = [0.9, 0.91, 0.92], [0.7, 0.72, 0.71]


def told(outcome: Any) -> bool:
    assert outcome.finding.endswith(".") and "nan" not in outcome.finding and png(outcome.figure)[1:4] == b"PNG"
    return bool(outcome.held)


# --- verdicts

def test_one_arm_leads_all_others_or_none() -> None:
    def arms(**by: list[float]) -> Found:
        return {name: {"top1": values} for name, values in by.items()}
    assert told(learn_mixing.led(arms(both=HIGH, conv=LOW, attention=LOW), "both"))
    assert not told(learn_mixing.led(arms(both=HIGH, conv=LOW, attention=HIGH), "both"))
    assert not told(learn_mixing.led(arms(both=[0.9, 0.6, 0.9], conv=LOW, attention=LOW), "both")), "by chance"


@pytest.mark.parametrize(("spread", "behind", "held"), [(0.1, 0.1, True), (0.0, 0.1, False), (0.1, 0.0, False)])
def test_a_stem_eases_both_choices_or_the_claim_is_refuted(spread: float, behind: float, held: bool) -> None:
    found: Found = {}
    for net, worse in (("ViT_P", 1.0), ("ViT_C", 0.0)):
        for name, rates in learn_ease.RATES.items():
            for at, lr in enumerate(rates):
                lost = worse * (spread * at + (behind if name == "sgd" else 0))
                found[f"{net}, {name}, {lr:g}"] = {"top1": [v - lost for v in HIGH]}
    assert told(learn_ease.stems_judged(found)) is held


@pytest.mark.parametrize(("post", "pre", "last", "held"), [
    (0.2, 0.0, 3.0, True), (0.0, 0.0, 3.0, False), (0.2, 0.2, 3.0, False), (0.2, 0.0, 1.0, False)])
def test_norms_are_judged_by_three_things(post: float, pre: float, last: float, held: bool) -> None:
    harm = {"post-norm": post, "pre-norm": pre}
    found: Found = {f"{order}, {name}": {"top1": [v - harm[order] * (name == "none") for v in HIGH]}
                    for order in harm for name in ("warm-up", "none")}
    gradients: Found = {order: {str(learn_ease.DEPTH): [length, 1.1 * length, length]}
                        for order, length in (("post-norm", last), ("pre-norm", 1.0))}
    assert told(learn_ease.norms_judged(found, gradients)) is held


@pytest.mark.parametrize(("grows", "apart", "held"), [(0.3, 0.3, True), (0.0, 0.3, False), (0.3, 0.0, False)])
def test_maps_grow_alike_and_are_kept_apart(grows: float, apart: float, held: bool) -> None:
    def maps(by: float, less: float) -> dict[str, list[float]]:
        return {f"{kind} {at}": [0.5 + by * at / learn_depth.DEPTH - less + e for e in (0.0, 0.01, -0.01)]
                for kind in ("cosine", "centred") for at in range(2, learn_depth.DEPTH + 1)}
    found: Found = {learn_depth.PLAIN: {"top1": HIGH, **maps(grows, 0)}, learn_depth.RE: {"top1": HIGH,
                                                                                         **maps(grows, apart)}}
    assert told(learn_depth.judged(found)) is held


def test_a_match_needs_fewer_parameters_and_no_worse_a_score() -> None:
    def found(san: list[float]) -> Found:
        return {learn_vector.CNN: {"top1": HIGH}, learn_vector.PAIRS: {"top1": san},
                learn_vector.PATCHES: {"top1": san}}
    fewer = dict(zip(learn_vector.NETS, (100, 75, 82), strict=True))
    assert told(learn_vector.matched(found([v + 0.001 for v in HIGH]), fewer))
    assert not told(learn_vector.matched(found([v + 0.001 for v in HIGH]), {**fewer, learn_vector.PAIRS: 90}))
    assert not told(learn_vector.matched(found(LOW), fewer))


def test_resistance_is_judged_under_attack() -> None:
    def found(san: list[float]) -> Found:
        weak = {"0": HIGH, **{f"{r:g}": LOW for r in learn_vector.RADII}}
        strong = {"0": LOW, **{f"{r:g}": san for r in learn_vector.RADII}}
        return {learn_vector.CNN: weak, learn_vector.PAIRS: strong, learn_vector.PATCHES: strong}
    assert told(learn_vector.resisted(found(HIGH))) and not told(learn_vector.resisted(found(LOW)))


def test_a_teacher_helps_or_the_claim_is_refuted() -> None:
    d = learn_distillation

    def found(**changes: list[float]) -> Found:
        plain = {"teacher": HIGH, d.NONE: LOW, **dict.fromkeys(d.SOFTS, LOW), d.HARD: HIGH, d.TOKEN: HIGH,
                 d.TWINS: LOW, f"cosine: {d.TOKEN}": LOW, f"cosine: {d.TWINS}": HIGH, "agreement": HIGH}
        return {"students": {**plain, **changes}}
    assert told(d.judged(found()))
    for worse in ({d.TOKEN: LOW}, {d.HARD: LOW}, {f"cosine: {d.TOKEN}": HIGH}):
        assert not told(d.judged(found(**worse)))


# --- parts

def test_attacks_stay_near_and_do_harm() -> None:
    model, found = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 10)), digits(8)
    images, labels = found.held_out[:50], found.held_labels[:50]
    before = nn.functional.cross_entropy(model(images), labels)
    for radius in learn_vector.RADII:
        seen = learn_vector.attacked(model, images, labels, radius)
        assert (seen - images).abs().max() <= radius + 1e-6 and not seen.requires_grad
        after = nn.functional.cross_entropy(model(seen), labels)
        assert after > before + 1e-4
        before = after


def test_maps_are_alike_as_far_as_they_are() -> None:
    a = torch.rand(2, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    cosine, centred = learn_depth.similarity(a, 3 * a + 1)
    assert cosine < 1 and centred == pytest.approx(1), "an offset and a gain of a norm change only the first"
    turned = learn_depth.similarity(a, -a)
    assert turned[0] == pytest.approx(-1) and turned[1] == pytest.approx(-1)


def test_the_post_norm_twin_has_the_same_weights_and_no_norm_at_the_end() -> None:
    def made(order: str) -> nn.Module:
        torch.manual_seed(0)
        return learn_ease.encoder(order, 10)
    post, pre = (dict(made(order).named_parameters()) for order in learn_ease.ORDERS)
    assert set(pre) - set(post) == {"backbone.norm.weight", "backbone.norm.bias"}
    assert all(torch.equal(post[name], pre[name]) for name in post)
    assert sum(isinstance(m, PostResidual) for m in made("post-norm").modules()) == 2 * learn_ease.DEPTH
    assert float(post["head.linear.weight"].detach().std()) == pytest.approx(math.sqrt(2 / 58), rel=0.1)


def test_the_small_resnet_takes_its_middles_from_either() -> None:
    def convs(share: float) -> int:
        return sum(isinstance(m, Conv) and m.kernel_size == (3, 3) for m in bottlenecks(share, 10).modules())
    assert convs(0) == convs(0.5) == 4 and convs(1) == 1
    sizes = [sum(p.numel() for p in bottlenecks(share, 10).parameters()) for share in (0.0, 0.5, 1.0)]
    assert sizes == sorted(sizes, reverse=True)
    assert resnet(8)(7)(torch.zeros(2, 3, 24, 24)).shape == (2, 7)


@pytest.mark.parametrize("letters", learn_mixing.ORDERS)
def test_the_letters_say_which_stage_attends(letters: str) -> None:
    torch.manual_seed(0)
    model: Any = learn_mixing.order(letters)(10)
    found = "".join("T" if any(type(m).__name__ == "RelativeAttention" for m in stage.modules()) else "C"
                    for stage in model.backbone.stages)
    assert found == letters


def test_a_name_makes_a_small_model() -> None:
    assert named("vit_ti16", image=24, patch=8, dim=16, depth=1, heads=2)(3)(torch.zeros(1, 3, 24, 24)).shape == (1, 3)
