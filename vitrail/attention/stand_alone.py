"""Stand-alone self-attention: a place attends to the k x k places around it, in the stead of a convolution.

Ramachandran et al., NeurIPS 2019, arXiv:1906.05909.
"""
from collections.abc import Callable

import torch
from torch import Tensor, nn

from vitrail.core.card import Idea, Paper
from vitrail.core.mechanism import LINEAR, Mechanism, Takes
from vitrail.nn import Elsewhere, Shown, Split
from vitrail.ops.neighbours import by_offset, by_place, dots, mix, pad_zero, reach, zero_edges

PAPER = Paper(title="Stand-Alone Self-Attention in Vision Models", arxiv="1906.05909", authors="Ramachandran et al.",
              year=2019, venue="NeurIPS",
              ideas=(Idea("attention.self_attention", "section 2.2", "attention, within a neighbourhood"),
                     Idea("attention.attention_augmented", "introduction", "attention beside convolutions"),
                     Idea("relative_positions", "section 2.2", "vectors of the offset")))


class StandAlone(nn.Module):
    """Σ_j softmax_j(q_i · k_j + q_i · [r_y; r_x]) v_j over the window x window places j around i (equation 3).

    Half of a head's query meets a learned vector of the row offset y, half one of the column offset x. The scores are
    not scaled, and nothing is projected afterwards: the paper's layer stands before a 1 x 1 convolution. The paper is
    silent about the edge; `zero_edges` lets a softmax see the zeros there as all published code does, `masked_edges`
    leaves them out. No code of the layer was released: the tables' deviation, D^-1/2, is that of its successors.
    (B, h, w, C) -> (B, h, w, C). Raises ValueError for an even window, or where 2 heads do not divide dim.
    """

    def __init__(self, dim: int, heads: int, *, window: int = 7,
                 edges: Callable[[Tensor, int], Tensor] = zero_edges):
        super().__init__()
        self.qkv = Split(dim, heads, 3, bias=False)
        if dim // heads % 2:
            raise ValueError(f"a head of {dim // heads} channels has no half for the rows and half for the columns")
        self.reach, self.window, self.edges = reach(window), window, edges
        self.groups = Elsewhere(f"the {window} x {window} places around it")
        half = dim // heads // 2
        self.rows = nn.Parameter(torch.randn(window, heads, half) * (2 * half) ** -0.5)
        self.columns = nn.Parameter(torch.randn(window, heads, half) * (2 * half) ** -0.5)
        self.shown = Shown()

    def forward(self, x: Tensor) -> Tensor:                                             # (B, h, w, C)
        h, w = x.shape[1:3]
        q, k, v = (t.mT.unflatten(-1, (h, w)).contiguous() for t in self.qkv(x.flatten(1, 2)))  # (B, H, D, h, w)
        scores = dots(q, pad_zero(k, self.reach), self.window) + self.places(q)         # (K, B, H, h, w)
        weights = self.shown(by_place(self.edges(scores, self.window).softmax(0)))      # (B, H, N, K)
        y = mix(by_offset(weights, h, w), pad_zero(v, self.reach), self.window)         # (B, H, D, h, w)
        return y.flatten(1, 2).movedim(1, -1)                                           # (B, h, w, C)

    def places(self, q: Tensor) -> Tensor:
        """q · [r_y; r_x] for every offset: (B, H, D, h, w) -> (K, B, H, h, w)."""
        of_row, of_column = q.chunk(2, 2)                                               # (B, H, E, h, w)
        rows = torch.einsum("bhdyx,khd->kbhyx", of_row, self.rows)                      # (k, B, H, h, w)
        columns = torch.einsum("bhdyx,khd->kbhyx", of_column, self.columns)             # (k, B, H, h, w)
        return (rows[:, None] + columns).flatten(0, 1)


stand_alone = Mechanism(
    build=StandAlone, mixer=lambda dim, heads, grid: StandAlone(dim, heads), takes=Takes.MAP, time=LINEAR,
    memory=LINEAR, where="section 2.2: the cost of a place is that of its window",
    shows="the weights of each place's window, row by row, (B, heads, N, window²)")
