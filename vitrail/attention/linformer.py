"""Linformer: keys and values are compressed along the sequence to a fixed number of rows, which all queries ask.

Wang et al., 2020, arXiv:2006.04768.
"""
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.core.card import Idea, Paper
from vitrail.core.mechanism import LINEAR, Mechanism, Takes
from vitrail.nn import Attend, Elsewhere, Merge, Split

PAPER = Paper(title="Linformer: Self-Attention with Linear Complexity", arxiv="2006.04768", authors="Wang et al.",
              year=2020, code="facebookresearch/fairseq", license="MIT",
              ideas=(Idea("attention.self_attention", "section 2.1", "attention, whose rank it finds low"),))


class Compress(nn.Module):
    """E or F of equation 7: learned sums over the tokens, (B, N, C) -> (B, K, C) for K = `rank` rows.

    Born for `tokens` tokens. A shorter sequence is taken for one whose end is missing, as in the published code. A
    longer one, for which that code has no answer, takes the weights interpolated along the sequence and scaled by
    tokens / N, so that the sums stay as large as they were.
    """

    def __init__(self, tokens: int, rank: int):
        super().__init__()
        if min(tokens, rank) < 1:
            raise ValueError(f"{tokens} tokens cannot be compressed to {rank} rows")
        self.weight = nn.Parameter(torch.empty(rank, tokens))
        nn.init.xavier_uniform_(self.weight, gain=1 / math.sqrt(2))

    def forward(self, x: Tensor) -> Tensor:                                     # (B, N, C)
        N, tokens = x.shape[1], self.weight.shape[1]
        weight = self.weight[:, :N]
        if N > tokens:
            weight = F.interpolate(self.weight[None], size=N, mode="linear")[0] * (tokens / N)
        return weight @ x                                                       # (B, K, C)


class Linformer(nn.Module):
    """softmax(q (E K)ᵀ / √D) F V: (B, N, C) -> (B, N, C), with weights of N x K (equation 7).

    keys, values: E and F, for all heads alike (the paper's headwise sharing, which its results use). Without
    `values` F is E (key-value sharing); one object given to several layers is theirs together (layerwise sharing).

    As in the published code the input is compressed, and then projected to keys and values: K rows in place of N.
    Without biases that is the paper's order; with them, they are added once and not summed up by E and F.
    """

    def __init__(self, dim: int, heads: int, *, keys: Compress, values: Compress | None = None):
        super().__init__()
        self.groups = Elsewhere("learned sums over all tokens")
        self.keys, self.values = keys, values
        self.q, self.k, self.v = (Split(dim, heads, 1) for _ in range(3))
        self.attend, self.out = Attend(), Merge(dim)
        for part in (self.q, self.k, self.v):
            nn.init.xavier_uniform_(part.proj.weight, gain=1 / math.sqrt(2))
        nn.init.xavier_uniform_(self.out.proj.weight)
        nn.init.zeros_(self.out.proj.bias)

    def forward(self, x: Tensor) -> Tensor:                                     # (B, N, C)
        rows = self.keys(x)                                                     # (B, K, C)
        (q,), (k,) = self.q(x), self.k(rows)
        (v,) = self.v(rows if self.values is None else self.values(x))          # (B, H, K, D)
        return self.out(self.attend(q, k, v))                                   # (B, N, C)


def _mixer(dim: int, heads: int, grid: tuple[int, int]) -> Linformer:
    # the paper takes 128 rows for 512 tokens, the published code a quarter of the tokens; more tokens need no more rows
    tokens = grid[0] * grid[1]
    rank = min(128, -(-tokens // 4))
    return Linformer(dim, heads, keys=Compress(tokens, rank), values=Compress(tokens, rank))


linformer = Mechanism(
    build=Linformer, mixer=_mixer, takes=Takes.TOKENS, time=LINEAR, memory=LINEAR, where="table 1",
    shows="the weights between tokens and the rows they are compressed to, (B, heads, N, rank)")
