"""Reformer: a token looks only at tokens whose vectors point its way, found by hashing and sorting; and its layers are
reversible, so that none keeps activations.

Kitaev, Kaiser and Levskaya, ICLR 2020, arXiv:2001.04451.
"""
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.core.card import Idea, Paper
from vitrail.core.errors import ModelError
from vitrail.core.mechanism import LINEAR, LOG_LINEAR, Mechanism, Takes
from vitrail.core.seeds import derive_seed
from vitrail.nn import Chain, Elsewhere, Mlp, Softmax, Split
from vitrail.nn.reversible import Choice, Reversible, ReversibleStack
from vitrail.ops.hashing import angular_hash

PAPER = Paper(title="Reformer: The Efficient Transformer", arxiv="2001.04451", authors="Kitaev et al.", year=2020,
              venue="ICLR", code="google/trax", license="Apache-2.0",
              ideas=(Idea("attention.self_attention", "section 2", "attention, among likely pairs only"),
                     Idea("angular_lsh", "section 2", "hashing by random rotations"),
                     Idea("revnet", "section 3", "layers that can be run backwards")))


def earlier(asking: Tensor, asked: Tensor) -> Tensor:
    """A `sees` for sequences that are read in order: a place sees itself and those before it.

    It hides what later tokens hold, not that they are there: they still move the bounds of the chunks.
    """
    return asked <= asking


class HashedAttention(nn.Module):
    """Attention within chunks of the tokens sorted by bucket (section 2): (B, N, C) -> (B, N, C).

    Queries are keys, k̂ = q / |q|. In each of `rounds` hashes the tokens are sorted by bucket, a token's place deciding
    among equals, and cut into chunks, each of which looks at itself and at the one before it. There are about 2 N /
    chunk buckets, a power of two. A token looks at itself only where it can see nothing else. The rounds are
    weighed by the sums of their exponents, so a key that a token meets in several rounds counts that often: as in
    the released code, where the paper's appendix would count it once.
    Up to `chunk` tokens see each other without a hash.

    sees: which places another place may look at, from the two places' numbers: `earlier`, or all if not given.
    The random directions follow from `seed`; they are part of the state, as the weights learn to live with them.
    Raises ModelError where chunk or rounds is less than one.
    """

    def __init__(self, dim: int, heads: int, *, chunk: int = 64, rounds: int = 4, seed: int = 0,
                 sees: Callable[[Tensor, Tensor], Tensor] | None = None):
        super().__init__()
        if chunk < 1 or rounds < 1:
            raise ModelError(f"hashed attention needs chunks of a token at least and a round at least, not "
                             f"chunk={chunk} and rounds={rounds}")
        self.groups = Elsewhere("tokens of its own and the neighbouring buckets")
        self.chunk, self.rounds, self.sees = chunk, rounds, sees
        self.qv, self.out = Split(dim, heads, 2, bias=False), nn.Linear(dim, dim, bias=False)
        self.choice, self.softmax = Choice(), Softmax()
        columns = max(chunk, 32)                # 32 tell apart 2**32 buckets, more than there will be
        self.directions: Tensor
        self.register_buffer("directions", torch.randn(heads, dim // heads, rounds, columns,
                                                       generator=torch.Generator().manual_seed(seed)))

    def forward(self, x: Tensor) -> Tensor:                                 # (B, N, C)
        N, n = x.shape[1], self.chunk
        if N <= n:
            q, v = self.qv(x)                                               # (B, H, N, D)
            places = torch.arange(N, device=x.device)
            y, _ = self.attend(q, F.normalize(q, dim=-1), v, places, places, N)
            return self.out(y.transpose(1, 2).flatten(2))
        q, v = self.qv(F.pad(x, (0, 0, 0, -N % n)))                         # (B, H, M, D)
        order = self.order(q, N)                                            # (B, H, R, M)
        asking = order.unflatten(3, (-1, n))                                # (B, H, R, G, n)
        before = asking.flatten(2, 3).roll(1, 2).view_as(asking)            # (B, H, R, G, n)
        asked = torch.cat([before, asking], -1)
        y, z = self.attend(_take(q, asking), _take(F.normalize(q, dim=-1), asked), _take(v, asked), asking, asked, N)
        M = order.shape[3]
        back = order.argsort(-1)[..., :N] + torch.arange(0, self.rounds * M, M, device=x.device)[:, None]
        y, z = _take(y.flatten(2, 4), back), _take(z.flatten(2, 4), back)
        y = (y * z.softmax(2)).sum(2)                                       # (B, H, N, D)
        return self.out(y.transpose(1, 2).flatten(2))                       # (B, N, C)

    def order(self, q: Tensor, N: int) -> Tensor:
        """The places of the tokens (B, H, M, D), sorted by bucket in each round, those from N on last: (B, H, R, M)."""
        bits = (2 * (q.shape[2] // self.chunk)).bit_length() - 1
        buckets = self.choice(angular_hash(q, self.directions, bits))
        buckets = buckets.masked_fill(torch.arange(q.shape[2], device=q.device) >= N, 1 << bits)
        return buckets.argsort(dim=-1, stable=True)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, asking: Tensor, asked: Tensor, N: int) -> tuple[Tensor, Tensor]:
        """softmax(q k̂ᵀ) v (*B, n, D) and the logarithm of the sum of exponents (*B, n, 1), by places below N."""
        asking, asked = asking[..., None], asked[..., None, :]
        scores = q @ k.mT
        if N % self.chunk:
            scores.masked_fill_(asked >= N, float("-inf"))
        if self.sees is not None:
            scores.masked_fill_(~self.sees(asking, asked), float("-inf"))
        scores.masked_fill_(asking == asked, max(-1e5, torch.finfo(scores.dtype).min / 2))
        weights = self.softmax(scores)
        # the largest exponent's logarithm, less its share: without another pass over the exponents
        return weights @ v, scores.amax(-1, keepdim=True) - weights.amax(-1, keepdim=True).log()


def _take(x: Tensor, places: Tensor) -> Tensor:
    """Rows (B, H, M, D) by their places (B, H, ...): (B, H, ..., D)."""
    B, H, M, D = x.shape
    first = torch.arange(0, B * H * M, M, device=x.device).view(B, H, *(1,) * (places.ndim - 2))
    return x.reshape(-1, D).index_select(0, (first + places).flatten()).view(*places.shape, D)


class Reformer(nn.Module):
    """Reversible layers of hashed attention and an Mlp (section 3): (B, N, C) -> (B, N, 2C), both streams side by side.

    Both begin as the input. The norms stand inside the two functions of a layer.
    """

    def __init__(self, dim: int, heads: int, *, depth: int = 6, mlp_ratio: float = 4.0, chunk: int = 64,
                 rounds: int = 4, seed: int = 0, sees: Callable[[Tensor, Tensor], Tensor] | None = None):
        super().__init__()
        self.layers = ReversibleStack(Reversible(
            Chain(norm=nn.LayerNorm(dim),
                  mix=HashedAttention(dim, heads, chunk=chunk, rounds=rounds, seed=derive_seed(seed, i), sees=sees)),
            Chain(norm=nn.LayerNorm(dim), mlp=Mlp(dim, int(dim * mlp_ratio), act=nn.ReLU))) for i in range(depth))
        self.norm = nn.LayerNorm(2 * dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(torch.cat(self.layers(x, x), -1))


def _mixer(dim: int, heads: int, grid: tuple[int, int]) -> HashedAttention:
    """With eight chunks at least, or the few tokens of an image would see each other whatever their hash."""
    return HashedAttention(dim, heads, chunk=max(1, min(64, grid[0] * grid[1] // 8)))


reformer = Mechanism(
    build=HashedAttention, mixer=_mixer, takes=Takes.TOKENS, time=LOG_LINEAR, memory=LINEAR, where="section 2, table 1",
    shows="the weights of each round's chunks over the one before and themselves, in the order of the buckets, "
          "(B, heads, rounds, chunks, n, 2n); up to n tokens, (B, heads, N, N)")
