"""Axial attention: plain attention along every column and along every row, so that no place meets all others at once.

Ho et al. 2019, arXiv:1912.12180.
"""
from torch import Tensor, nn

from vitrail.core.card import Idea, Paper
from vitrail.core.mechanism import THREE_HALVES, Mechanism, Takes
from vitrail.nn import Elsewhere, SelfAttention

PAPER = Paper(title="Axial Attention in Multidimensional Transformers", arxiv="1912.12180", authors="Ho et al.",
              year=2019, code="google-research/google-research", license="Apache-2.0",
              ideas=(Idea("attention.self_attention", "introduction", "attention, along one axis at a time"),
                     Idea("image_transformer", "introduction", "attention over pixels, block by block"),
                     Idea("sparse_transformer", "introduction", "attention in factors")))


class PlainLine(SelfAttention):
    """Self-attention whose tokens are the places of one row or column: (B, h, w, C), along w."""

    groups = Elsewhere("its own row or column")


class PlainAxial(nn.Module):
    """Self-attention along the columns, and then along the rows of what that gave (section 3.1).

    The paper stacks layers of either kind, each with a residual and an Mlp of its own; this is one of each, so that
    a block sees the whole map. Its masks, for drawing images value by value, are not needed here.
    (B, h, w, C) -> (B, h, w, C). Raises ValueError where the heads do not divide dim.
    """

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.height, self.width = PlainLine(dim, heads), PlainLine(dim, heads)

    def forward(self, x: Tensor) -> Tensor:                                     # (B, h, w, C)
        return self.width(self.height(x.transpose(1, 2)).transpose(1, 2))       # (B, h, w, C)


axial_plain = Mechanism(
    build=PlainAxial, mixer=lambda dim, heads, grid: PlainAxial(dim, heads), takes=Takes.MAP, time=THREE_HALVES,
    memory=THREE_HALVES,
    where="section 3.1: O(N √N) (the fused kernel that runs here holds no weights: its memory grows with N)",
    shows="the weights of columns (B, w, heads, h, h) and of rows (B, h, heads, w, w)")
