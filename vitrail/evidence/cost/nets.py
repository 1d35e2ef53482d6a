"""Cost claims about whole networks."""
import math
import warnings
from typing import Any

import torch

from vitrail.backbones.ghostnet import ghostnet_050, ghostnet_100, ghostnet_130
from vitrail.backbones.vit import vit_b16
from vitrail.core.card import Variant
from vitrail.evidence.claims.claim import Outcome
from vitrail.foundations.bert import bert_base
from vitrail.measure.operations import multiply_adds
from vitrail.figures.style import EMBER, GLASS, make_axes


def cheap_nets(smoke: bool) -> Outcome:
    """Counted on the meta device, where nothing is computed: as cheap in a smoke run."""
    nets: dict[str, Variant[Any]] = {"ViT-B/16": vit_b16, "GhostNet 0.5x": ghostnet_050, "GhostNet 1.0x": ghostnet_100,
            "GhostNet 1.3x": ghostnet_130}
    found: dict[str, float] = {}
    for name, net in nets.items():
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")                     # initialisation has nothing to do there
            backbone = net().eval()
            head, image = backbone.make_head(1000).eval(), torch.empty(1, 3, 224, 224)
            found[name] = multiply_adds(lambda b=backbone, h=head, x=image: h(b(x))) / 1e9      # type: ignore[misc]
    vit, *ghosts = found.values()
    figure, (axes,) = make_axes(7, 2.4)
    axes.barh(list(found), list(found.values()), color=[EMBER, GLASS, GLASS, GLASS], height=0.6)
    for at, value in enumerate(found.values()):
        axes.text(value * 1.1, at, f"{value:.3g}", va="center", fontsize=8)
    axes.axvline(0.6, color="#94a3b8", ls="--", lw=1)
    axes.set(xscale="log", xlim=(0.02, 60), xlabel="10^9 multiply-adds of an image; the line is the claim's 0.6")
    axes.set_axisbelow(True)
    axes.invert_yaxis()
    right = 17 <= vit <= 19, any(0.5 <= g <= 0.7 for g in ghosts)
    least, most = min(ghosts), max(ghosts)
    verdict = "So the claim holds." if all(right) else (
        f"{'ViT-B is as claimed; ' if right[0] else ''}no published GhostNet costs 0.6: the claim takes it for "
        f"{0.6 / found['GhostNet 1.0x']:.0f} times as costly as it is (0.141 in its own table), and the true distance "
        f"to ViT-B is {vit / found['GhostNet 1.0x']:.0f} times, not {18 / 0.6:.0f}.")
    return Outcome(held=all(right), figure=figure, numbers={"gmacs": found, "at": 224},
                   finding=f"ViT-B/16 takes {vit:.2f} billion multiply-adds, GhostNet {least:.3f} to {most:.3f}. "
                           f"{verdict}")


def bert_size(smoke: bool) -> Outcome:
    """Counted on the meta device."""
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bert = bert_base()
    parts = {name: sum(math.prod(p.shape) for p in part.parameters()) for name, part in bert.named_children()}
    whole = sum(p.numel() for p in bert.parameters())
    heads = sum(parts[name] for name in ("next", "guess", "guess_act", "guess_norm")) + bert.bias.numel()
    trunk = whole - heads
    embeddings = sum(parts[name] for name in ("tokens", "segments", "places"))
    return Outcome(
        held=all(109e6 <= n <= 110.5e6 for n in (whole, trunk)),
        numbers={"whole": whole, "without_the_heads_of_pretraining": trunk, "embeddings": embeddings,
                 "blocks": parts["blocks"]},
        finding=f"BERT-base has {whole:,} parameters, {trunk:,} without the two heads of pre-training: the source of "
                f"both numbers in use. {100 * embeddings / trunk:.0f} % of the latter are embeddings.")


RUNS = {"cheap_nets": cheap_nets, "bert_size": bert_size}
