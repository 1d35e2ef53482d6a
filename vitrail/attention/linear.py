"""Linear attention: a kernel in place of the softmax lets the keys be summed up once, for all queries.

Katharopoulos et al., ICML 2020, arXiv:2006.16236. What a token sees of the others is then a D x D matrix and a vector.
Read from left to right, they are the hidden state of a recurrent network.
"""
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.core.card import Idea, Paper
from vitrail.core.mechanism import LINEAR, Mechanism, Takes
from vitrail.nn import Elsewhere, Merge, Split

PAPER = Paper(title="Transformers are RNNs: Fast Autoregressive Transformers with Linear Attention", arxiv="2006.16236",
              authors="Katharopoulos et al.", year=2020, venue="ICML", code="idiap/fast-transformers", license="MIT",
              ideas=(Idea("attention.self_attention", "section 3", "attention, written with a kernel"),
                     Idea("transformer_dissection", "section 2.2", "the softmax read as a kernel")))

EPS = 1e-6          # of the published code, added to every normaliser
SEGMENT = 1024      # tokens whose sums stay in a processor's cache; any number gives the same answers


def features(x: Tensor) -> Tensor:
    """φ(x) = elu(x) + 1, which is nowhere negative (equation 7)."""
    return F.elu(x).add_(1)


class State(NamedTuple):
    """What a sequence leaves behind (equations 18 and 19), in float32 at least."""

    memory: Tensor          # Σ φ(k) vᵀ: (B, H, D, D)
    norm: Tensor            # Σ φ(k): (B, H, D)


def attend_linear(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """φ(q) (Σ φ(k) vᵀ) / φ(q) (Σ φ(k)), equations 5 and 6: (B, H, N, D), in time and memory N.

    No scale: the paper has none. Features are made where they are used, a segment at a time, and not kept for all N.
    """
    parts = [_sum_up(a, b) for a, b in zip(k.split(SEGMENT, -2), v.split(SEGMENT, -2), strict=True)]
    memory, norm = (torch.stack(sums).sum(0).to(q.dtype) for sums in zip(*parts, strict=True))
    return torch.cat([_ask(a, memory, norm) for a in q.split(SEGMENT, -2)], -2)


def _sum_up(k: Tensor, v: Tensor) -> State:
    k, wide = features(k), torch.promote_types(k.dtype, torch.float32)
    return State((k.mT @ v).to(wide), k.sum(-2, dtype=wide))


def _ask(q: Tensor, memory: Tensor, norm: Tensor) -> Tensor:
    q = features(q)
    return q @ memory / (q @ norm[..., None] + EPS)


def attend_linear_masked(q: Tensor, k: Tensor, v: Tensor, state: State | None = None, *,
                         chunk: int = 64) -> tuple[Tensor, State]:
    """Equations 9 to 12, where a token sees itself, those before it, and those that left `state`.

    q, k, v (B, H, N, D) with at least one token; returns (B, H, N, D) and the state after them. The paper's prefix
    sums, a D x D matrix a token, are made for each `chunk` of tokens only; within a chunk the masked weights are
    multiplied out. So memory grows with N, and no token waits for the one before it.
    """
    answers = []
    size = -(-SEGMENT // chunk) * chunk
    for a, b, c in zip(q.split(size, -2), k.split(size, -2), v.split(size, -2), strict=True):
        answer, state = _segment(a, b, c, state, chunk)
        answers.append(answer)
    assert state is not None
    return torch.cat(answers, -2), state


def _segment(q: Tensor, k: Tensor, v: Tensor, state: State | None, chunk: int) -> tuple[Tensor, State]:
    N, pad = q.shape[-2], -q.shape[-2] % chunk
    q, k = features(q), features(k)
    if pad:                             # behind φ: zero features add nothing to any sum, unlike the features of zeros
        q, k, v = (F.pad(t, (0, 0, 0, pad)) for t in (q, k, v))
    q, k, v = (t.unflatten(-2, (-1, chunk)) for t in (q, k, v))                     # (B, H, G, c, D)
    within = (q @ k.mT).tril()                                                      # (B, H, G, c, c)
    memory = _sums(k.mT @ v, None if state is None else state.memory)               # (B, H, G + 1, D, D)
    norm = _sums(k.sum(-2), None if state is None else state.norm)                  # (B, H, G + 1, D)
    mixed = within @ v + q @ memory[:, :, :-1].to(q.dtype)                          # (B, H, G, c, D)
    total = within.sum(-1, keepdim=True) + q @ norm[:, :, :-1, :, None].to(q.dtype) + EPS
    return (mixed / total).flatten(-3, -2)[..., :N, :], State(memory[:, :, -1], norm[:, :, -1])


def _sums(parts: Tensor, first: Tensor | None) -> Tensor:
    """Of parts (B, H, G, ...) the sum of `first` and those before each, and of all: (B, H, G + 1, ...)."""
    parts = parts.to(torch.promote_types(parts.dtype, torch.float32))
    first = torch.zeros_like(parts[:, :, 0]) if first is None else first
    return torch.cat([first[:, :, None], parts], 2).cumsum(2)


def step(q: Tensor, k: Tensor, v: Tensor, state: State | None = None) -> tuple[Tensor, State]:
    """One token of `attend_linear_masked`, (B, H, D) each, after those that made `state` (equations 16 to 20).

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

    `forward` answers all tokens of a sequence at once, `step` one after the other in constant time and memory;
    `read` answers a beginning and leaves the state to go on from.
    """

    def __init__(self, dim: int, heads: int, *, chunk: int = 64):
        super().__init__()
        if chunk < 1:
            raise ValueError(f"a chunk holds at least one token, not {chunk}")
        self.chunk = chunk
        self.groups = Elsewhere("sums over the tokens before it")
        self.qkv, self.out = Split(dim, heads, 3), Merge(dim)

    def forward(self, x: Tensor) -> Tensor:             # (B, N, C)
        return self.read(x)[0]                          # (B, N, C)

    def read(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Tokens (B, N, C) that follow those which left `state`: their answers (B, N, C), and the state after them."""
        q, k, v = self.qkv(x)                                   # (B, H, N, D)
        mixed, state = attend_linear_masked(q, k, v, state, chunk=self.chunk)
        return self.out(mixed), state

    def step(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """The next token (B, C): its answer (B, C), and the state after it."""
        q, k, v = (t[:, :, 0] for t in self.qkv(x[:, None]))    # (B, H, D)
        mixed, state = step(q, k, v, state)
        return self.out(mixed[:, :, None])[:, 0], state


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
