"""Gated axial attention: four learned numbers say how far the learned offsets are to be trusted, where data are few.

Valanarasu et al., MICCAI 2021, arXiv:2102.10662.
"""
from collections.abc import Callable

import torch
from torch import Tensor, nn

from vitrail.attention.axial import Line, Scores, Sum
from vitrail.core.card import Idea, Paper
from vitrail.core.mechanism import THREE_HALVES, Mechanism, Takes
from vitrail.positions.relative_2d import resampled

PAPER = Paper(title="Medical Transformer: Gated Axial-Attention for Medical Image Segmentation", arxiv="2102.10662",
              authors="Valanarasu et al.", year=2021, venue="MICCAI", code="jeya-maria-jose/Medical-Transformer",
              license="MIT", builds_on=("attention.axial", "positions.relative_2d"),
              ideas=(Idea("attention.axial", "method", "the attention whose positions it gates"),))


class Gated(nn.Module):
    """A sum whose last terms are multiplied by a learned number each."""

    def __init__(self, total: nn.Module, *gates: float):
        super().__init__()
        self.total, self.gates = total, nn.Parameter(torch.tensor(gates))

    def forward(self, *terms: Tensor) -> Tensor:
        free = len(terms) - len(self.gates)
        return self.total(*terms[:free], *(g * t for g, t in zip(self.gates, terms[free:], strict=True)))


class GatedAxial(nn.Module):
    """Axial attention with gates: softmax(q·k + G_Q q·r^q + G_K k·r^k) (G_V1 v + G_V2 r^v) (equation 3).

    G_V1 is born as 1, the others as 0.1. In the official code, and here, each gate stands before a batch norm, of which
    equation 3 knows nothing: by a batch's own statistics the norm takes the gate out again, but for its sign and
    the norm's ε, and the running statistics follow. The official code holds the gates fixed for ten epochs;
    that is left to the training.
    (B, h, w, C) -> (B, h, w, C), born for maps of `grid`. Raises ValueError as `Line`.
    """

    def __init__(self, dim: int, heads: int, *, grid: tuple[int, int],
                 fit: Callable[[Tensor, int], Tensor] = resampled):
        super().__init__()
        self.height, self.width = (
            Line(dim, heads, length=n, scores=Gated(Scores(heads), 0.1, 0.1), total=Gated(Sum(dim), 1.0, 0.1), fit=fit)
            for n in grid)

    def forward(self, x: Tensor) -> Tensor:                                         # (B, h, w, C)
        return self.width(self.height(x.transpose(1, 2)).transpose(1, 2))           # (B, h, w, C)


gated_axial = Mechanism(
    build=GatedAxial, mixer=lambda dim, heads, grid: GatedAxial(dim, heads, grid=grid), takes=Takes.MAP,
    time=THREE_HALVES, memory=THREE_HALVES, where="equation 3: as axial attention, one axis after the other",
    shows="the weights of columns (B, w, heads, h, h) and of rows (B, h, heads, w, w)")
