"""The cost claim of CCNet's abstract, at its feature size."""
import torch
from torch import Tensor, nn

from vitrail.attention.criss_cross import RecurrentCrissCross
from vitrail.attention.non_local import Embedded
from vitrail.evidence.claims.claim import Outcome
from vitrail.measure.memory import peak_bytes
from vitrail.measure.operations import multiply_adds
from vitrail.nn import Attend
from vitrail.figures.style import EMBER, GLASS, LEAF, make_axes

PAPER = {"gflops": (108.0, 16.5), "mbytes": (1411, 127)}       # non-local, and criss-cross twice


class Everywhere(nn.Module):
    """The non-local layer that the paper compares with: criss-cross attention's own projections, over all places."""

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.dim, self.hidden = dim, hidden
        self.qkv, self.attend = nn.Linear(dim, 2 * hidden + dim), Attend()
        self.attend.fused = False                               # the map of weights is held, as it was in 2019

    def forward(self, x: Tensor) -> Tensor:                                             # (B, h, w, C)
        q, k, v = self.qkv(x.flatten(1, 2)).split((self.hidden, self.hidden, self.dim), -1)
        return self.attend(q, k, v, scale=1.0).view_as(x)


def ccnet_memory(smoke: bool) -> Outcome:
    """Operations, and peaks of memory in inference and in a training step, of three layers."""
    side, dim = (13, 32) if smoke else (97, 512)
    torch.manual_seed(0)
    layers = {"non-local, map held": Everywhere(dim, dim // 8),
              "criss-cross, R = 2": RecurrentCrissCross(dim, 1, hidden=dim // 8, gain=1.0),
              "non-local, fused kernel": Embedded(dim, 1)}
    x = torch.randn(1, side, side, dim)
    found: dict[str, dict[str, float]] = {}
    for name, layer in layers.items():
        found[name] = {"gmacs": multiply_adds(lambda m=layer: m(x)) / 1e9}              # type: ignore[misc]
        with torch.inference_mode():
            found[name]["inference_mib"] = peak_bytes(lambda m=layer: m(x)) / 2**20     # type: ignore[misc]
        found[name]["training_mib"] = peak_bytes(lambda m=layer: step(m, x)) / 2**20    # type: ignore[misc]
    every, cross, fused = found.values()
    saved = 1 - cross["gmacs"] / every["gmacs"]
    ratios = {what: every[f"{what}_mib"] / cross[f"{what}_mib"] for what in ("inference", "training")}
    one_map = 4 * side**4 / 2**20
    maps = {what: every[f"{what}_mib"] / one_map for what in ratios}
    figure, axes = make_axes(10, 2.3, 3)
    for one, (key, title) in zip(axes, (("gmacs", "10^9 multiply-adds"), ("inference_mib", "inference, MiB"),
                                        ("training_mib", "training step, MiB")), strict=True):
        one.barh(list(found), [row[key] for row in found.values()], color=[EMBER, GLASS, LEAF], height=0.6)
        one.set_axisbelow(True)
        one.invert_yaxis()
        one.set(title=title)
        if one is not axes[0]:
            one.set_yticklabels([])
    return Outcome(
        held=any(8 <= ratio <= 14 for ratio in ratios.values()) and 0.8 <= saved <= 0.9, figure=figure,
        numbers={"layers": found, "map": [side, side, dim], "memory_ratio": ratios, "operations_saved": saved,
                 "one_map_mib": one_map, "paper": PAPER},
        finding=f"Two rounds of criss-cross attention need {ratios['training']:.1f} times less memory than non-local "
                f"attention in a training step and {ratios['inference']:.1f} times less in inference (claimed: 11), "
                f"and {100 * saved:.1f} % fewer operations (claimed: 85; {2 * cross['gmacs']:.1f} against "
                f"{2 * every['gmacs']:.1f} GFLOPs, {PAPER['gflops'][1]} against {PAPER['gflops'][0]:.0f} there). "
                f"At its peak non-local attention holds {maps['training']:.1f} maps of weights of {one_map:.0f} MiB in "
                f"training and {maps['inference']:.1f} in inference, where the paper's 1411 MB are about 4; "
                f"criss-cross attention holds {cross['training_mib']:.0f} and {cross['inference_mib']:.0f} MiB, where "
                "the paper has 127 MB. On a fused kernel, which did not exist then and holds no map, the library's "
                f"non-local layer takes {fused['training_mib']:.0f} and {fused['inference_mib']:.0f} MiB.")


def step(layer: nn.Module, x: Tensor) -> None:
    """Forward and backward to the parameters and the map, as in the middle of a network."""
    x = x.detach().requires_grad_()
    torch.autograd.backward(layer(x).sum(), inputs=[x, *layer.parameters()])
    layer.zero_grad()


RUNS = {"ccnet_memory": ccnet_memory}
