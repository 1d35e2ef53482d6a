"""Offset attention: what self-attention gathers is taken from the point itself, as a Laplacian takes the mean.

Guo et al., Computational Visual Media 2021, arXiv:2012.09688 (PCT). Points have no order, and none is made.
"""
from torch import Tensor, nn

from vitrail.core.card import Idea, Paper
from vitrail.core.errors import ModelError
from vitrail.core.mechanism import QUADRATIC, Mechanism, Takes
from vitrail.nn import Attend

PAPER = Paper(title="PCT: Point Cloud Transformer", arxiv="2012.09688", authors="Guo et al.", year=2021,
              venue="Computational Visual Media", code="MenghaoGuo/PCT",
              ideas=(Idea("attention.self_attention", "method", "attention over a set"),
                     Idea("spectral_networks", "method", "the Laplacian of a graph")))


class Offset(nn.Module):
    """LBR(x - A v): a linear layer, a batch norm and a ReLU on the offset from what attention gathers (equation 8).

    A_ij is a softmax over the askers i, then divided by the sum of row i (equation 9): e^s_ij / Z_j over its sum
    along j, with Z_j = Σ_i e^s_ij. That is the softmax over j of s_ij - ln Z_j: attention with a bias a key. As in
    the official code query and key are one projection to a quarter of the width, and the product has no scale.
    Raises ModelError where the width has no quarter.
    """

    def __init__(self, dim: int):
        super().__init__()
        if dim % 4:
            raise ModelError(f"offset attention compares a quarter of the width, which {dim} does not have")
        self.key, self.value = nn.Linear(dim, dim // 4, bias=False), nn.Linear(dim, dim)
        self.attend = Attend()
        self.linear, self.norm, self.act = nn.Linear(dim, dim), nn.BatchNorm1d(dim), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:                                         # (B, N, C)
        k, v = self.key(x)[:, None], self.value(x)[:, None]
        asked = (k @ k.mT).logsumexp(-1)                                            # (B, 1, N)
        gathered = self.attend(k, k, v, bias=-asked[:, :, None], scale=1.0)[:, 0]   # (B, N, C)
        return self.act(self.norm(self.linear(x - gathered).mT).mT)                 # (B, N, C)


class OffsetAttention(nn.Module):
    """x + LBR(x - A v): (B, N, C) -> (B, N, C) (PCT, equation 8)."""

    def __init__(self, dim: int):
        super().__init__()
        self.offset = Offset(dim)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.offset(x)


# the block around a mixer adds x by itself
offset_attention = Mechanism(
    build=OffsetAttention, mixer=lambda dim, heads, grid: Offset(dim), takes=Takes.TOKENS, time=QUADRATIC,
    memory=QUADRATIC, where="section 3.3 (one head)", shows="the weights, (B, 1, N, N)")
