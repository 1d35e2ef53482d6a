"""Words for texts: masks, attention under a mask, what a decoder keeps from step to step, the post-norm residual."""
import torch
from torch import Tensor, nn

from vitrail.nn.attention import Attend, Merge, Split
from vitrail.nn.maps import TokenSets
from vitrail.ops.windows import by_size

# Added to a score it leaves a weight of exactly 0. It is finite, so that a row with nothing to look at is no nan, and
# two of them fit half precision.
EXCLUDED = -3e4


def causal(n: int, like: Tensor) -> Tensor:
    """(n, n), added to scores: each token (row) sees itself and what stands before it."""
    def make() -> Tensor:
        return torch.full((n, n), EXCLUDED, dtype=like.dtype, device=like.device).triu(1)
    return by_size(("causal", n), like, make)


def padding(tokens: Tensor, pad: int, like: Tensor) -> Tensor:
    """(B, 1, 1, N), added to scores: nobody sees the places of `tokens` (B, N) that hold `pad`."""
    return (tokens == pad)[:, None, None].to(like.dtype) * EXCLUDED


class KeyValues:
    """The keys and values (B, H, M, D) that one attention keeps from step to step."""

    def __init__(self, keys: Tensor, values: Tensor):
        self.keys, self.values = keys, values

    @classmethod
    def none(cls, rows: int, heads: int, size: int, like: Tensor) -> "KeyValues":
        """Those of `rows` texts that have no tokens yet, each of `size` numbers."""
        nothing = like.new_zeros(rows, heads, 0, size)
        return cls(nothing, nothing)

    def __len__(self) -> int:
        """How many tokens they are of."""
        return self.keys.shape[2]

    def add(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Puts those of new tokens behind the others; returns all."""
        self.keys, self.values = torch.cat([self.keys, keys], 2), torch.cat([self.values, values], 2)
        return self.keys, self.values

    def copy(self) -> "KeyValues":
        """One that can be added to while this stays as it is; the tensors are shared."""
        return KeyValues(self.keys, self.values)

    def take(self, rows: Tensor) -> "KeyValues":
        """Those of some rows of the batch, in their order."""
        return KeyValues(self.keys[rows], self.values[rows])


class MaskedAttention(nn.Module):
    """Self-attention in which a mask is added to the scores (Vaswani et al. 2017, section 3.2.3).

    x (B, N, C), mask broadcast to (B, H, N, M) -> (B, N, C). With `past`, x are new tokens: they see the earlier ones
    through it, and are added to it. tokens: the name of their set, for `vitrail.record`.
    """

    def __init__(self, dim: int, heads: int, *, bias: bool = True, tokens: str = "text"):
        super().__init__()
        self.token_sets = TokenSets(tokens, tokens)
        self.qkv, self.attend, self.out = Split(dim, heads, 3, bias=bias), Attend(), Merge(dim, bias=bias)

    def forward(self, x: Tensor, mask: Tensor | None = None, past: KeyValues | None = None) -> Tensor:
        q, k, v = self.qkv(x)                                               # (B, H, N, D)
        if past is not None:
            k, v = past.add(k, v)
        return self.out(self.attend(q, k, v, mask))


class CrossAttention(nn.Module):
    """Queries from x, keys and values from another sequence (Vaswani et al. 2017, section 3.2.3).

    x (B, N, C), what `keep` made of the other sequence (B, M, C), mask broadcast to (B, H, N, M) -> (B, N, C).
    queries, keys: the names of the two sets of tokens, for `vitrail.record`.
    """

    def __init__(self, dim: int, heads: int, *, bias: bool = True, queries: str = "target", keys: str = "source"):
        super().__init__()
        self.q, self.kv = Split(dim, heads, 1, bias=bias), Split(dim, heads, 2, bias=bias)
        self.attend, self.out = Attend(), Merge(dim, bias=bias)
        self.token_sets = TokenSets(queries, keys)

    def keep(self, memory: Tensor) -> KeyValues:
        """The keys and values of the other sequence (B, M, C), which are the same at every step."""
        return KeyValues(*self.kv(memory))

    def forward(self, x: Tensor, kept: KeyValues, mask: Tensor | None = None) -> Tensor:
        q, = self.q(x)                                                      # (B, H, N, D)
        return self.out(self.attend(q, kept.keys, kept.values, mask))


class PostResidual(nn.Module):
    """norm(x + drop(fn(x))): the residual of 2017 (Vaswani et al., section 3.1), in which no path misses the norms."""

    def __init__(self, fn: nn.Module, norm: nn.Module, *, drop: nn.Module | None = None):
        super().__init__()
        self.norm, self.fn, self.drop = norm, fn, drop or nn.Identity()

    def forward(self, x: Tensor, *context: object) -> Tensor:
        return self.norm(x + self.drop(self.fn(x, *context)))
