"""Clustered attention: similar queries ask once, through their mean.

Vyas, Katharopoulos & Fleuret, NeurIPS 2020, arXiv:2007.04825. Queries are hashed by random planes and grouped by
K-Means on the hashes. The improved form lets every query ask again, for itself, the keys its group cared for most.
"""
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.core.card import Paper
from vitrail.core.mechanism import LINEAR, Mechanism, Takes
from vitrail.nn import Attend, Elsewhere, Merge, Softmax, Split

PAPER = Paper(title="Fast Transformers with Clustered Attention", arxiv="2007.04825", authors="Vyas et al.", year=2020,
              venue="NeurIPS", code="idiap/fast-transformers", license="MIT")

BLOCK = 32          # queries of one cluster that ask together; any number gives the same answers


class Clusters(nn.Module):
    """Queries (B, H, N, D) to the number of their cluster (B, H, N): Lloyd's algorithm on their hashes (section 3.2.1).

    A hash has a bit for each of `bits` planes, drawn from `seed` once: on which side of it the query lies. `rounds` is
    how often the queries are assigned; between, each cluster's code becomes the majority of its members' bits. One
    that has lost all members keeps its code (the published code draws another).
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
        bits = (q.float() @ planes[:, :-1].T > planes[:, -1]).float() * 2 - 1           # (B, H, N, bits), ±1
        codes = bits[:, :, first_members(q.shape[2], self.clusters, q.device)]          # (B, H, K, bits)
        # the product of two codes of ±1 falls as their Hamming distance grows; of equals the first is taken
        index = (bits @ codes.mT).argmax(-1)                                            # (B, H, N)
        for _ in range(self.rounds - 1):
            votes = sum_rows(bits, index, codes.shape[2])                               # (B, H, K, bits)
            empty = (votes == 0).all(-1, keepdim=True)
            codes = torch.where(empty, codes, (votes > 0).float() * 2 - 1)
            index = (bits @ codes.mT).argmax(-1)
        return index


def first_members(N: int, clusters: int, device: torch.device) -> Tensor:
    """The tokens whose hashes the clusters start from: `clusters` of N (or all), spread by the golden ratio, so that
    on a map they do not fall into one column, as evenly spaced ones may."""
    spread = torch.arange(N, device=device) * 2654435769 % 2 ** 32                      # i φ mod 1, in whole numbers
    return spread.argsort()[:clusters]


def sum_rows(x: Tensor, index: Tensor, count: int) -> Tensor:
    """Rows (B, H, N, D) with the same index (B, H, N) added up: (B, H, count, D)."""
    B, H, N, D = x.shape
    out = x.new_zeros(B * H * count, D)
    return out.index_add(0, flat(index, count), x.flatten(0, 2)).view(B, H, count, D)


def take_rows(x: Tensor, index: Tensor) -> Tensor:
    """The row (B, H, K, D) that each index (B, H, N) names: (B, H, N, D)."""
    return x.flatten(0, 2).index_select(0, flat(index, x.shape[2])).view(*index.shape, -1)


def flat(index: Tensor, count: int) -> Tensor:
    """(B, H, N) among `count` rows of each head, as (B·H·N) among those of all."""
    first = torch.arange(0, index.shape[0] * index.shape[1] * count, count, device=index.device)
    return (index.flatten(0, 1) + first[:, None]).flatten()
