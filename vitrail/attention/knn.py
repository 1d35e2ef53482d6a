"""k-NN attention: a token looks only at the k tokens that it is most like, and the noise of all others is left out.

Wang et al., ECCV 2022, arXiv:2106.00515.
"""
import torch
from torch import Tensor, nn

from vitrail.core.card import Idea, Paper
from vitrail.core.mechanism import QUADRATIC, Mechanism, Takes
from vitrail.nn import Merge, Shown, Split

PAPER = Paper(title="KVT: k-NN Attention for Boosting Vision Transformers", arxiv="2106.00515", authors="Wang et al.",
              year=2022, venue="ECCV", code="damo-cv/KVT", license="MIT",
              ideas=(Idea("attention.self_attention", "method", "attention, of which it keeps the top k"),
                     Idea("explicit_sparse", "related work", "keeping the top k, there for text")))


class KnnAttention(nn.Module):
    """softmax over the `neighbours` largest of q kᵀ / √D, all other weights zero, times v (section 3.2).

    Fewer tokens than neighbours are all looked at; of equal scores, as many are taken as there is room for.
    (B, N, C) -> (B, N, C). Raises ValueError for no neighbours at all.
    """

    def __init__(self, dim: int, heads: int, *, neighbours: int = 100, qkv_bias: bool = True):
        super().__init__()
        if neighbours < 1:
            raise ValueError(f"{neighbours} neighbours leave nothing to look at; there is at least one")
        self.neighbours = neighbours
        self.qkv, self.out = Split(dim, heads, 3, bias=qkv_bias), Merge(dim)
        self.shown = Shown()

    def forward(self, x: Tensor) -> Tensor:                                     # (B, N, C)
        q, k, v = self.qkv(x)                                                   # (B, H, N, D)
        scores = (q * q.shape[-1] ** -0.5) @ k.mT                               # (B, H, N, N)
        best, places = scores.topk(min(self.neighbours, x.shape[1]), sorted=False)     # (B, H, N, K)
        weights = torch.zeros_like(scores).scatter(-1, places, best.softmax(-1))    # (B, H, N, N)
        return self.out(self.shown(weights) @ v)                                # (B, N, C)


def half(dim: int, heads: int, grid: tuple[int, int]) -> KnnAttention:
    """About half of the tokens, which the paper's 100 of 197 are: all of them would be plain attention."""
    return KnnAttention(dim, heads, neighbours=-(-grid[0] * grid[1] // 2))


knn_attention = Mechanism(
    build=KnnAttention, mixer=half, takes=Takes.TOKENS, time=QUADRATIC, memory=QUADRATIC, where="section 3.2",
    shows="the weights, of which all but k a row are zero, (B, heads, N, N)")
