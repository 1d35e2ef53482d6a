"""Deformable attention: a query looks at a few points of each map, where and how much it tells from itself alone.

Zhu et al., ICLR 2021, arXiv:2010.04159. No query is compared with a key, so the cost is linear in both.
"""
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vitrail.core.card import Idea, Paper
from vitrail.core.errors import ModelError
from vitrail.core.mechanism import LINEAR, Mechanism, Takes
from vitrail.nn import Elsewhere, Shown
from vitrail.ops.deformable import centres, sample_sum

PAPER = Paper(title="Deformable DETR: Deformable Transformers for End-to-End Object Detection", arxiv="2010.04159",
              authors="Zhu et al.", year=2021, venue="ICLR", code="fundamentalvision/Deformable-DETR",
              license="Apache-2.0",
              ideas=(Idea("attention.self_attention", "section 3", "several heads"),
                     Idea("detr", "section 3", "the detector whose attention it replaces"),
                     Idea("deformable_conv", "introduction", "learned offsets of the points that are read")))


class Deformable(nn.Module):
    """Σ over heads m: W_m Σ over levels l and points k: A_mlk · W'_m x_l(φ_l(p) + Δp_mlk) (equation 3).

    The offsets Δp and the weights A, softmax over levels and points together, are linear in the query. Offsets are
    born as whole pixels: head m looks in direction m of a compass of `heads` directions, point k at k + 1 pixels.
    Raises ModelError where the heads do not divide the width, or a level or point is missing.
    """

    def __init__(self, dim: int, heads: int, *, levels: int = 4, points: int = 4):
        super().__init__()
        if heads < 1 or dim % heads:
            raise ModelError(f"{heads} heads do not divide a width of {dim}")
        if levels < 1 or points < 1:
            raise ModelError(f"deformable attention needs a level and a point, not {levels} and {points}")
        self.heads, self.levels, self.points = heads, levels, points
        self.groups = Elsewhere("points between the places of its maps")
        self.offsets = nn.Linear(dim, heads * levels * points * 2)
        self.weights = nn.Linear(dim, heads * levels * points)
        self.shown = Shown()
        self.value, self.out = nn.Linear(dim, dim), nn.Linear(dim, dim)
        for linear in (self.offsets, self.weights):
            nn.init.zeros_(linear.weight)
        for linear in (self.value, self.out):
            nn.init.xavier_uniform_(linear.weight)
        for linear in (self.weights, self.value, self.out):
            nn.init.zeros_(linear.bias)
        with torch.no_grad():
            self.offsets.bias.copy_(_compass(heads, levels, points).flatten())

    def forward(self, query: Tensor, reference: Tensor, maps: Sequence[Tensor],
                masks: Sequence[Tensor] | None = None) -> Tensor:
        """Queries (B, Q, C) -> (B, Q, C).

        reference: (B, Q, levels, 2 or 4): for each level a point (x, y), or a box (x, y, width, height) by its
        centre, as parts of the map's width and height; offsets are pixels of the map, or `points` of them reach half
        a box far. maps: a map (B, h, w, C) a level. masks: for each level True (B, h, w) where there is a picture;
        elsewhere values are 0.
        """
        if len(maps) != self.levels or reference.shape[2] != self.levels:
            raise ModelError(f"deformable attention over {self.levels} levels was given {len(maps)} maps and "
                             f"references on {reference.shape[2]} levels")
        if reference.shape[-1] not in (2, 4):
            raise ModelError(f"a reference is a point (x, y) or a box (x, y, width, height), not {reference.shape[-1]} "
                             "numbers")
        values = [self.value(x) for x in maps]
        if masks is not None:
            values = [v.masked_fill(~mask[..., None], 0) for v, mask in zip(values, masks, strict=True)]
        weights = self.weights(query).unflatten(-1, (self.heads, -1)).softmax(-1)               # (B, Q, H, K)
        weights = self.shown(weights.transpose(1, 2)).transpose(1, 2)                           # (B, Q, H, K)
        offsets = self.offsets(query).unflatten(-1, (self.heads, self.levels, self.points, 2))  # (B, Q, H, L, P, 2)
        if reference.shape[-1] == 2:
            offsets = offsets / reference.new_tensor([(x.shape[2], x.shape[1]) for x in maps])[:, None]
        else:
            offsets = offsets / self.points * reference[:, :, None, :, None, 2:] * 0.5
        places = reference[:, :, None, :, None, :2] + offsets                                   # (B, Q, H, L, P, 2)
        x = sample_sum([v.unflatten(-1, (self.heads, -1)) for v in values], places,
                       weights.unflatten(-1, (self.levels, -1)))                                # (B, Q, H, D)
        return self.out(x.flatten(2))


class DeformableMap(nn.Module):
    """The places of one map ask that map, each from where it is: (B, h, w, C) -> (B, h, w, C).

    The encoder's form (section 4.2), on one level.
    """

    def __init__(self, dim: int, heads: int, *, points: int = 4):
        super().__init__()
        self.sample = Deformable(dim, heads, levels=1, points=points)
        self.groups = self.sample.groups

    def forward(self, x: Tensor) -> Tensor:
        B, h, w, _ = x.shape
        reference = centres([(h, w)], x).expand(B, -1, -1)[:, :, None]              # (B, N, 1, 2)
        return self.sample(x.flatten(1, 2), reference, (x,)).view_as(x)


def _compass(heads: int, levels: int, points: int) -> Tensor:
    """(H, L, P, 2): whole steps along the sides of a square, 1 to P of them, one direction a head."""
    angle = torch.arange(heads, dtype=torch.float64) * (2 * math.pi / heads)
    way = torch.stack([angle.cos(), angle.sin()], -1)
    way = way / way.abs().amax(-1, keepdim=True)                                    # (H, 2)
    steps = torch.arange(1, points + 1)[:, None]
    return (way[:, None, None] * steps).expand(heads, levels, points, 2)


deformable = Mechanism(
    build=Deformable, mixer=lambda dim, heads, grid: DeformableMap(dim, heads), takes=Takes.MAP, time=LINEAR,
    memory=LINEAR, where="section 4.1 (for a fixed number of points)",
    shows="the weights of the points, (B, heads, Q, levels x points)")
