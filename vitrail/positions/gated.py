"""Gated positions: a head weighs what tokens say against where they stand, and is born looking at one neighbour.

d'Ascoli et al., ICML 2021, arXiv:2103.10697. The network that holds it is `backbones.convit`.
"""
import math

import torch
from torch import Tensor, nn

from vitrail.core.card import Idea, Paper
from vitrail.core.mechanism import Position
from vitrail.nn import Merge, Shown, Split
from vitrail.ops.windows import by_size

PAPER = Paper(title="ConViT: Improving Vision Transformers with Soft Convolutional Inductive Biases",
              arxiv="2103.10697", authors="d'Ascoli et al.", year=2021, venue="ICML", code="facebookresearch/convit",
              license="Apache-2.0 (its LICENSE; the headers of two files say CC-BY-NC)",
              ideas=(Idea("attention.self_attention", "section 2", "attention, gated against positions"),
                     Idea("conv_like_attention", "section 2", "heads that act as a convolution")))


class GatedPositional(nn.Module):
    """(1 - σ(λ)) softmax(q kᵀ / √D) + σ(λ) softmax(w · r), head by head (GPSA).

    With r = (dx, dy, dx² + dy²), w · r is a part of dx alone plus a part of dy alone, so its softmax over a
    grid is the product of a softmax over the columns and one over the rows. The released code divides the mixed
    rows by their sum; that sum is 1 already.
    """

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv, self.out = Split(dim, heads, 3, bias=False), Merge(dim)
        self.position, self.gate = nn.Linear(3, heads), nn.Parameter(torch.ones(heads))
        self.shown = Shown()

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:              # (B, N, C)
        q, k, v = self.qkv(x)                                                   # (B, H, N, D)
        content = ((q * q.shape[-1] ** -0.5) @ k.mT).softmax(-1)                # (B, H, N, N)
        gate = self.gate.sigmoid()[:, None, None]                               # (H, 1, 1)
        place = (gate * self.places(grid)).to(content.dtype)                    # (H, N, N)
        weights = torch.addcmul(place, content, (1 - gate).to(content.dtype))   # (B, H, N, N)
        return self.out(self.shown(weights) @ v)                                # (B, N, C)

    def places(self, grid: tuple[int, int]) -> Tensor:
        """softmax(w · r): how much a token looks at each place of the grid, (H, N, N)."""
        def along(axis: int, n: int) -> Tensor:                                 # (H, n, n)
            return self.position(offsets(n, axis, self.position.weight)).movedim(-1, 0).softmax(-1)
        rows, columns = along(1, grid[0]), along(0, grid[1])
        return (rows[:, :, None, :, None] * columns[:, None, :, None, :]).flatten(3, 4).flatten(1, 2)


def offsets(n: int, axis: int, like: Tensor) -> Tensor:
    """(n, n, 3): r from each of n places in a line to each other, the line along x (axis 0) or y (axis 1)."""
    def make() -> Tensor:
        at = torch.arange(n, dtype=like.dtype, device=like.device)
        d = at - at[:, None]
        zero = torch.zeros_like(d)
        return torch.stack([zero, d, d * d] if axis else [d, zero, d * d], -1)
    return by_size(("convit_offsets", n, axis), like, make)


@torch.no_grad()
def as_convolution(mixer: GatedPositional, locality: float) -> None:
    """Each of k² heads looks at its own pixel of a k x k square around the token, and hands it on as it is.

    w = -a (-2Δx, -2Δy, 1), a = `locality` (after Cordonnier et al., arXiv:1911.03584): the scores are
    -a |(dx, dy) - Δ|² but for a constant, which no softmax sees. Heads beyond the square keep what they have.
    """
    side, dim = math.isqrt(mixer.heads), mixer.out.proj.in_features
    mixer.qkv.proj.weight[2 * dim:] = torch.eye(dim)
    d = torch.arange(side) - (side - 1) / 2
    mixer.position.weight[:side * side] = torch.stack(
        [2 * d.repeat_interleave(side), 2 * d.repeat(side), -torch.ones(side * side)], 1)
    mixer.position.weight *= locality


gated_position = Position(
    build=GatedPositional, enters="mixed with the weights, in the first layers", learned=True,
    fits="any grid: weights of offsets, counted anew")
