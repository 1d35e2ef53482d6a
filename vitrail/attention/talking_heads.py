"""Talking heads: the heads' scores are mixed with each other before the softmax, and their weights once more behind it.

Shazeer et al., 2020, arXiv:2003.02436.
"""
import torch
from torch import Tensor, nn

from vitrail.core.card import Idea, Paper
from vitrail.core.mechanism import QUADRATIC, Mechanism, Takes
from vitrail.nn import Merge, Shown, Split

PAPER = Paper(title="Talking-Heads Attention", arxiv="2003.02436", authors="Shazeer et al.", year=2020,
              ideas=(Idea("attention.self_attention", "introduction", "several heads, there apart"),))


class HeadMix(nn.Module):
    """Every new head a weighted sum of all heads: (B, H, N, M) -> (B, K, N, M).

    Born from a normal of variance 1 / H, which keeps the variance of what it mixes; the paper does not say.
    """

    def __init__(self, heads: int, to: int, *, bias: bool = False):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(to, heads) * heads ** -0.5)
        self.bias = nn.Parameter(torch.zeros(to)) if bias else None

    def forward(self, x: Tensor) -> Tensor:                         # (B, H, N, M)
        mixed = (self.weight @ x.flatten(2)).unflatten(2, x.shape[2:])      # (B, K, N, M)
        return mixed if self.bias is None else mixed + self.bias[:, None, None]


class TalkingHeads(nn.Module):
    """P_w softmax(P_l (q kᵀ / √D)) v, P_l and P_w mixing heads (section 3).

    maps: over how many heads the softmax runs, where these are not as many as the queries' (the paper's h; its h_k
    and h_v are `heads`). head_bias: a bias behind each mixing, which CaiT has and the paper has not; the softmax
    takes that of P_l out again, so there is one for P_w only.
    (B, N, C) -> (B, N, C).
    """

    def __init__(self, dim: int, heads: int, *, maps: int | None = None, qkv_bias: bool = True,
                 head_bias: bool = False):
        super().__init__()
        maps = heads if maps is None else maps
        self.qkv, self.out = Split(dim, heads, 3, bias=qkv_bias), Merge(dim)
        self.before, self.behind = HeadMix(heads, maps), HeadMix(maps, heads, bias=head_bias)
        self.shown = Shown()

    def forward(self, x: Tensor) -> Tensor:                         # (B, N, C)
        q, k, v = self.qkv(x)                                       # (B, H, N, D)
        scores = self.before((q * q.shape[-1] ** -0.5) @ k.mT)      # (B, K, N, N)
        weights = self.shown(self.behind(scores.softmax(-1)))       # (B, H, N, N)
        return self.out(weights @ v)                                # (B, N, C)


talking_heads = Mechanism(
    build=TalkingHeads, mixer=lambda dim, heads, grid: TalkingHeads(dim, heads), takes=Takes.TOKENS,
    time=QUADRATIC, memory=QUADRATIC, where="section 4",
    shows="the weights behind the second mixing, which need not sum to 1 nor be positive, (B, heads, N, N)")
