"""Clustered attention: similar queries ask once, through their mean.

Vyas, Katharopoulos & Fleuret, NeurIPS 2020, arXiv:2007.04825. Queries are hashed by random planes and grouped by
K-Means on the hashes. The improved form lets every query ask again, for itself, the keys its group cared for most.
"""
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.core.card import Idea, Paper
from vitrail.core.mechanism import LINEAR, Mechanism, Takes
from vitrail.nn import Attend, Elsewhere, Merge, Softmax, Split
from vitrail.ops.windows import by_size

PAPER = Paper(title="Fast Transformers with Clustered Attention", arxiv="2007.04825", authors="Vyas et al.", year=2020,
              venue="NeurIPS", code="idiap/fast-transformers", license="MIT",
              ideas=(Idea("attention.self_attention", "section 3.1", "attention, approximated for groups of queries"),))


class Clusters(nn.Module):
    """Queries (B, H, N, D) to the number of their cluster (B, H, N): Lloyd's algorithm on their hashes (section 3.2).

    A hash has a bit for each of `bits` planes, drawn from `seed` once: on which side of it the query lies. `rounds` is
    how often the queries are assigned; between, each cluster's code becomes the majority of its members' bits. One
    that has lost all members keeps its code (the published code draws another). No more clusters than queries.
    """

    planes: Tensor

    def __init__(self, width: int, *, clusters: int, rounds: int, bits: int, seed: int):
        super().__init__()
        if min(clusters, rounds, bits) < 1:
            raise ValueError(f"there must be some of each: {clusters} clusters, {rounds} rounds, {bits} bits")
        self.clusters, self.rounds = clusters, rounds
        # the last column is a plane's distance from the origin, so that nearness in hashes is nearness in space
        self.register_buffer("planes", torch.randn(bits, width + 1, generator=torch.Generator().manual_seed(seed)))

    @torch.no_grad()
    def forward(self, q: Tensor) -> Tensor:                                             # (B, H, N, D)
        planes = self.planes.float()
        bits = signs(q.float() @ planes[:, :-1].T - planes[:, -1])                      # (B, H, N, bits)
        bits = F.pad(bits, (0, 1), value=1)         # one more that all have, by whose votes an empty cluster is known
        codes = bits[:, :, starts(q.shape[2], self.clusters, bits)]                     # (B, H, K, bits + 1)
        # the product of two codes falls as their Hamming distance grows; among equals argmax takes the first
        index = (bits @ codes.mT).argmax(-1)                                            # (B, H, N)
        for _ in range(self.rounds - 1):
            votes = sum_rows(bits, index, codes.shape[2])                               # (B, H, K, bits + 1)
            codes = torch.where(votes[..., -1:] > 0, signs(votes), codes)
            index = (bits @ codes.mT).argmax(-1)
        return index


def signs(x: Tensor) -> Tensor:
    """1 where positive, else -1: bits whose sums and products are exact."""
    return (x > 0).to(x.dtype) * 2 - 1


def starts(N: int, clusters: int, like: Tensor) -> Tensor:
    """The queries whose hashes are the first codes: `clusters` of N, or all.

    Spread by the golden ratio: even steps could fall into a single column of a map.
    """
    def make() -> Tensor:
        return (torch.arange(N, device=like.device) * 2654435769 % 2 ** 32).argsort()[:clusters]
    return by_size(("first codes", N, clusters), like, make)


def sum_rows(x: Tensor, index: Tensor, count: int) -> Tensor:
    """Rows (B, H, N, D) of the same index (B, H, N) added up: (B, H, count, D)."""
    out = x.new_zeros(x.shape[0] * x.shape[1] * count, x.shape[3])
    return out.index_add(0, _over_heads(index, count), x.flatten(0, 2)).view(*x.shape[:2], count, -1)


def take_rows(x: Tensor, index: Tensor) -> Tensor:
    """Of x (B, H, K, D) the row that each index (B, H, N) names: (B, H, N, D)."""
    return x.flatten(0, 2).index_select(0, _over_heads(index, x.shape[2])).view(*index.shape, -1)


def _over_heads(index: Tensor, count: int) -> Tensor:
    """(B, H, N) among a head's `count` rows, as (B·H·N) among the rows of all heads of all samples."""
    index = index.flatten(0, 1)
    return (index + torch.arange(index.shape[0], device=index.device)[:, None] * count).flatten()


def counts(index: Tensor, clusters: int) -> Tensor:
    """How many queries each cluster has: (B, H, K)."""
    return sum_rows(torch.ones_like(index)[..., None], index, clusters)[..., 0]


def centres(q: Tensor, index: Tensor, sizes: Tensor) -> Tensor:
    """The mean query of each cluster, 0 for an empty one: (B, H, K, D) (equation 3). Added up in float32 at least."""
    wide = q.to(torch.promote_types(q.dtype, torch.float32))
    return (sum_rows(wide, index, sizes.shape[-1]) / sizes.clamp(min=1)[..., None]).to(q.dtype)


class ClusteredAttention(nn.Module):
    """Every query takes the answer to its cluster's mean: (B, N, C) -> (B, N, C) (equations 4 to 6)."""

    def __init__(self, dim: int, heads: int, *, clusters: int = 25, rounds: int = 10, bits: int = 63, seed: int = 0):
        super().__init__()
        self.groups = Elsewhere("what the mean of its cluster looks at")
        self.qkv, self.attend, self.out = Split(dim, heads, 3), Attend(), Merge(dim)
        self.clusters = Clusters(dim // heads, clusters=clusters, rounds=rounds, bits=bits, seed=seed)

    def forward(self, x: Tensor) -> Tensor:                                             # (B, N, C)
        q, k, v = self.qkv(x)                                                           # (B, H, N, D)
        index = self.clusters(q)
        sizes = counts(index, min(self.clusters.clusters, x.shape[1]))
        answers = self.attend(centres(q, index, sizes), k, v)                           # (B, H, K, D)
        return self.out(take_rows(answers, index))                                      # (B, N, C)


class ImprovedClusteredAttention(nn.Module):
    """As above, but the weight that a cluster gives to its `top` keys is dealt out by each query itself
    (section 3.3): (B, N, C) -> (B, N, C)."""

    def __init__(self, dim: int, heads: int, *, clusters: int = 25, top: int = 32, rounds: int = 10, bits: int = 63,
                 seed: int = 0):
        super().__init__()
        if top < 1:
            raise ValueError(f"at least one key must be asked again, not {top}")
        self.top = top
        self.groups = Elsewhere("what the mean of its cluster looks at")
        self.qkv, self.softmax, self.out = Split(dim, heads, 3), Softmax(), Merge(dim)
        self.clusters = Clusters(dim // heads, clusters=clusters, rounds=rounds, bits=bits, seed=seed)

    def forward(self, x: Tensor) -> Tensor:                                             # (B, N, C)
        q, k, v = self.qkv(x)                                                           # (B, H, N, D)
        index, q = self.clusters(q), q * q.shape[-1] ** -0.5
        sizes = counts(index, min(self.clusters.clusters, x.shape[1]))
        scores = centres(q, index, sizes) @ k.mT                                        # (B, H, K, N)
        weights = self.softmax(scores)                                                  # (B, H, K, N)
        best = scores.topk(min(self.top, x.shape[1])).indices                           # (B, H, K, t)
        share = weights.gather(-1, best).sum(-1, keepdim=True)                          # (B, H, K, 1)
        others = weights.scatter(-1, best, 0) @ v                                       # (B, H, K, D)
        exact = ask_again(q, k, v, best, index, sizes)                                  # (B, H, N, D)
        return self.out(torch.addcmul(take_rows(others, index), take_rows(share, index), exact))


def ask_again(q: Tensor, k: Tensor, v: Tensor, best: Tensor, index: Tensor, sizes: Tensor) -> Tensor:
    """softmax(q kᵀ) v of each query with its cluster's keys `best` (B, H, K, t) alone: (B, H, N, D).

    Queries are laid out by cluster in blocks of t, the last of a cluster filled up with zeros. A block then needs its
    keys once, so that memory grows with N and not with N t D.
    """
    (N, K), t = (q.shape[2], sizes.shape[2]), best.shape[3]
    blocks = (sizes + t - 1) // t                                                       # (B, H, K)
    G = N // t + K                                                                      # never fewer than there are
    place = index.argsort(dim=-1, stable=True).argsort()                                # (B, H, N): sorted by cluster
    skip = (blocks.cumsum(-1) - blocks) * t - (sizes.cumsum(-1) - sizes)                # (B, H, K)
    place = place + skip.gather(-1, index)                                              # (B, H, N): among the G·t
    number = torch.arange(G, device=q.device).expand(*blocks.shape[:2], -1).contiguous()
    owner = torch.searchsorted(blocks.cumsum(-1), number, right=True).clamp(max=K - 1)  # (B, H, G)
    asked = take_rows(best, owner).flatten(2)
    k, v = (take_rows(x, asked).unflatten(2, (G, t)) for x in (k, v))                   # (B, H, G, t, D)
    q = sum_rows(q, place, G * t).unflatten(2, (G, t))                                  # (B, H, G, t, D)
    return take_rows(((q @ k.mT).softmax(-1) @ v).flatten(2, 3), place)


clustered_attention = Mechanism(
    build=ClusteredAttention, mixer=lambda dim, heads, grid: ClusteredAttention(dim, heads), takes=Takes.TOKENS,
    time=LINEAR, memory=LINEAR, where="section 3.2, for a fixed number of clusters",
    shows="the weights of each cluster's mean query, (B, heads, clusters, N)")

improved_clustered_attention = Mechanism(
    build=ImprovedClusteredAttention, mixer=lambda dim, heads, grid: ImprovedClusteredAttention(dim, heads),
    takes=Takes.TOKENS, time=LINEAR, memory=LINEAR, where="section 3.3, for fixed numbers of clusters and keys",
    shows="the weights of each cluster's mean query, (B, heads, clusters, N), before its top keys are asked again")
