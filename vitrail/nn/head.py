"""From features to logits: how a paper reads the answer off."""
from collections.abc import Callable

import torch
from torch import Tensor, nn

from vitrail.nn.attention import Attend, Merge
from vitrail.nn.blocks import Mlp
from vitrail.nn.features import Features


def class_token(f: Features) -> Tensor:
    """The first prefix token: (B, C)."""
    assert f.prefix is not None
    return f.prefix[:, 0]


def mean_map(f: Features) -> Tensor:
    """The mean of the coarsest map over its places: (B, C)."""
    return f.maps[-1].mean((1, 2))


def mean_finest(f: Features) -> Tensor:
    """The mean of the finest map over its places: (B, C)."""
    return f.maps[0].mean((1, 2))


class DroppedMean(nn.Module):
    """The mean of the coarsest map, of whose channels some are dropped: Features -> (B, C)."""

    def __init__(self, dropout: float):
        super().__init__()
        self.dropout = nn.Dropout(dropout)

    def forward(self, features: Features) -> Tensor:
        return self.dropout(mean_map(features))


class Head(nn.Module):
    """One linear layer on a pooled vector: Features -> (B, classes). init_weights: gives the layer its first weights,
    in the place of torch's own."""

    def __init__(self, dim: int, classes: int, pool: Callable[[Features], Tensor], *,
                 init_weights: Callable[[nn.Module], object] = lambda linear: None):
        super().__init__()
        self.pool = pool
        self.linear = nn.Linear(dim, classes)
        init_weights(self.linear)

    def forward(self, features: Features) -> Tensor:
        return self.linear(self.pool(features))


class AttentionPool(nn.Module):
    """One learned probe asks all tokens: (B, C) (Zhai et al., arXiv:2106.04560, section 3.4).

    MAP: y = u + Mlp(LN(u)), u = attention(probe, tokens). The norm and the Mlp come after the attention.
    """

    def __init__(self, dim: int, heads: int, hidden: int, norm: Callable[[int], nn.Module]):
        super().__init__()
        self.heads = heads
        self.probe = nn.Parameter(torch.zeros(1, 1, dim))
        self.q, self.kv = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim)
        self.attend, self.out = Attend(), Merge(dim)
        self.norm, self.mlp = norm(dim), Mlp(dim, hidden)

    def forward(self, f: Features) -> Tensor:
        x = f.maps[-1].flatten(1, 2)                                                        # (B, N, C)
        q = self.q(self.probe).expand(x.shape[0], -1, -1).unflatten(-1, (self.heads, -1))       # (B, 1, H, D)
        k, v = self.kv(x).unflatten(-1, (2, self.heads, -1)).unbind(-3)                     # (B, N, H, D)
        u = self.out(self.attend(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)))  # (B, 1, C)
        return (u + self.mlp(self.norm(u)))[:, 0]
