"""Linear attention: a kernel in place of the softmax lets the keys be summed up once, for all queries.

Katharopoulos et al., ICML 2020, arXiv:2006.16236. What a token sees of the others is then a D x D matrix and a vector.
Read from left to right, they are the hidden state of a recurrent network.
"""
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.core.card import Paper
from vitrail.core.mechanism import LINEAR, Mechanism, Takes
from vitrail.nn import Elsewhere, Merge, Split

PAPER = Paper(title="Transformers are RNNs: Fast Autoregressive Transformers with Linear Attention", arxiv="2006.16236",
              authors="Katharopoulos et al.", year=2020, venue="ICML", code="idiap/fast-transformers", license="MIT")

EPS = 1e-6          # of the published code, added to every normaliser


def features(x: Tensor) -> Tensor:
    """φ(x) = elu(x) + 1, which is positive everywhere (equation 7)."""
    return F.elu(x) + 1


def attend_linear(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """φ(q) (Σ φ(k) vᵀ) / φ(q) (Σ φ(k)), equations 5 and 6: (*B, H, N, D), in time and memory N.

    No scale: the paper has none.
    """
    q, k = features(q), features(k)
    return q @ (k.mT @ v) / (q @ k.sum(-2)[..., None] + EPS)


class State(NamedTuple):
    """What a sequence leaves behind (equations 18 and 19), in float32 at least."""

    memory: Tensor          # Σ φ(k) vᵀ: (*B, H, D, D)
    norm: Tensor            # Σ φ(k): (*B, H, D)


def attend_linear_masked(q: Tensor, k: Tensor, v: Tensor, *, chunk: int = 64) -> Tensor:
    """Equations 9 to 12, where a token sees itself and those before it: (B, H, N, D).

    The paper's prefix sums, one D x D matrix a token, are made for each `chunk` of tokens only; within a chunk the
    masked chunk x chunk weights are multiplied out. So memory grows with N (D + chunk + D² / chunk), and no token
    waits for the one before it.
    """
    N, pad = q.shape[-2], -q.shape[-2] % chunk
    # zero features add nothing to any sum, unlike the features of zeros
    q, k, v = (F.pad(t, (0, 0, 0, pad)).unflatten(-2, (-1, chunk)) for t in (features(q), features(k), v))
    within = (q @ k.mT).tril()                                      # (B, H, G, c, c)
    memory, norm = _before(k.mT @ v), _before(k.sum(-2))            # each chunk's State
    mixed = within @ v + q @ memory                                 # (B, H, G, c, D)
    total = within.sum(-1, keepdim=True) + q @ norm[..., None] + EPS
    return (mixed / total).flatten(-3, -2)[..., :N, :]


def _before(parts: Tensor) -> Tensor:
    """Of parts (B, H, G, ...) the sum of those before each, added up in float32 at least."""
    sums = parts[:, :, :-1].cumsum(2, dtype=torch.promote_types(parts.dtype, torch.float32)).to(parts.dtype)
    return torch.cat([torch.zeros_like(parts[:, :, :1]), sums], 2)


def step(q: Tensor, k: Tensor, v: Tensor, state: State | None = None) -> tuple[Tensor, State]:
    """One token of `attend_linear_masked`, (*B, H, D) each, after those that made `state` (equations 16 to 20).

    Returns what it is answered and the state after it, whose size does not grow.
    """
    wide = torch.promote_types(q.dtype, torch.float32)
    fq, fk = features(q).to(wide), features(k).to(wide)
    memory, norm = fk[..., :, None] * v.to(wide)[..., None, :], fk
    if state is not None:
        memory, norm = state.memory + memory, state.norm + norm
    mixed = (fq[..., None, :] @ memory)[..., 0, :]
    return (mixed / ((fq * norm).sum(-1, keepdim=True) + EPS)).to(q.dtype), State(memory, norm)


class LinearAttention(nn.Module):
    """Multi-head attention through φ: (B, N, C) -> (B, N, C)."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.groups = Elsewhere("sums over all tokens")
        self.qkv, self.out = Split(dim, heads, 3), Merge(dim)

    def forward(self, x: Tensor) -> Tensor:             # (B, N, C)
        return self.out(attend_linear(*self.qkv(x)))    # (B, N, C)


class CausalLinearAttention(nn.Module):
    """The same where a token sees itself and those before it: a transformer in training, a recurrent network after.

    `forward` answers all tokens of a sequence at once, `step` one after the other in constant time and memory.
    """

    def __init__(self, dim: int, heads: int, *, chunk: int = 64):
        super().__init__()
        if chunk < 1:
            raise ValueError(f"a chunk holds at least one token, not {chunk}")
        self.chunk = chunk
        self.groups = Elsewhere("sums over the tokens before it")
        self.qkv, self.out = Split(dim, heads, 3), Merge(dim)

    def forward(self, x: Tensor) -> Tensor:                                             # (B, N, C)
        return self.out(attend_linear_masked(*self.qkv(x), chunk=self.chunk))           # (B, N, C)

    def step(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """The next token (B, C) of sequences that left `state`: what `forward` answers there, and the state after."""
        q, k, v = (t[..., 0, :] for t in self.qkv(x[:, None]))                          # (B, H, D)
        mixed, state = step(q, k, v, state)
        return self.out(mixed[..., None, :])[:, 0], state


linear_attention = Mechanism(
    build=LinearAttention, mixer=lambda dim, heads, grid: LinearAttention(dim, heads), takes=Takes.TOKENS, time=LINEAR,
    memory=LINEAR, where="section 3.2.1",
    shows="nothing: the keys are summed up before a query meets them, so no weights are ever made")

causal_linear_attention = Mechanism(
    build=CausalLinearAttention,
    mixer="causal linear attention reads a sequence in its order, each token seeing only those before it; the patches "
          "of an image have no such order. Take linear_attention, which sees them all",
    takes=Takes.TOKENS, time=LINEAR, memory=LINEAR, where="sections 3.3 and 3.4",
    shows="nothing: of the tokens before a chunk there is only a sum")
