"""BigBird: blocks of tokens look at their neighbours, at a few random blocks, and at two that see and are seen by all.

Zaheer et al., NeurIPS 2020, arXiv:2007.14062.
"""
import random
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.core.card import Idea, Paper
from vitrail.core.errors import ModelError
from vitrail.core.mechanism import LINEAR, Mechanism, Takes
from vitrail.core.seeds import derive_seed
from vitrail.nn import Attend, Elsewhere, Merge, Split
from vitrail.ops.windows import by_size

PAPER = Paper(title="Big Bird: Transformers for Longer Sequences", arxiv="2007.14062", authors="Zaheer et al.",
              year=2020, venue="NeurIPS", code="google-research/bigbird", license="Apache-2.0",
              ideas=(Idea("attention.self_attention", "section 2", "attention, as a graph with fewer edges"),
                     Idea("longformer", "related work", "windows and a few global tokens"),
                     Idea("etc", "section 2", "global tokens beside the text")))


@torch.compiler.assume_constant_result
def random_blocks(heads: int, blocks: int, picks: int, seed: int) -> list[list[list[int]]]:
    """Different blocks for each block but the first and the last, none of them global or a neighbour: heads x
    (blocks - 2) x picks numbers. For most lengths, the released code draws from the first 5 + 2 picks blocks alone."""
    drawn = random.Random(derive_seed(seed, "big_bird", blocks))

    def row(i: int) -> list[int]:
        left, right = range(1, i - 1), range(i + 2, blocks - 1)
        at = drawn.sample(range(len(left) + len(right)), picks)
        return [left[j] if j < len(left) else right[j - len(left)] for j in at]
    return [[row(i) for i in range(1, blocks - 1)] for _ in range(heads)]


class BlockSparseAttention(nn.Module):
    """Attention over global, neighbouring and random blocks (section 2, appendix D; the form ITC).

    The tokens are cut into G blocks. The first and the last see all tokens. Each block between them sees those two,
    itself, its neighbours to both sides, and `picks` others, which `plan` draws for each head, once for all from `seed`
    and the number of blocks. The last block may be filled up with tokens that nobody sees. Up to 5 + picks blocks, all
    tokens see each other.
    Raises ModelError for a block without tokens or less than no picks.
    """

    def __init__(self, dim: int, heads: int, *, block: int = 64, picks: int = 3, seed: int = 0,
                 plan: Callable[[int, int, int, int], list[list[list[int]]]] = random_blocks):
        super().__init__()
        if block < 1 or picks < 0:
            raise ModelError(f"block-sparse attention needs blocks of a token at least and no less than 0 random "
                             f"ones, not block={block} and picks={picks}")
        self.groups = Elsewhere("global, neighbouring and random blocks")
        self.heads, self.block, self.picks, self.seed, self.plan = heads, block, picks, seed, plan
        self.qkv, self.out = Split(dim, heads, 3), Merge(dim)
        self.over_all, self.over_blocks = Attend(), Attend()

    def forward(self, x: Tensor) -> Tensor:                                     # (B, N, C)
        N, n = x.shape[1], self.block
        blocks = -(-N // n)
        if blocks <= 5 + self.picks:
            q, k, v = self.qkv(x)                                               # (B, H, N, D)
            return self.out(self.over_all(q, k, v))
        q, k, v = self.qkv(F.pad(x, (0, 0, 0, -N % n)))                         # (B, H, M, D)
        ends = torch.cat([q[:, :, :n], q[:, :, -n:]], 2)
        ends = self.over_all(ends, k[:, :, :N], v[:, :, :N])
        seen = self.seen(blocks, like=x)                                        # (H, G, S)
        inner = q[:, :, n:-n].unflatten(2, (-1, n))                             # (B, H, G, n, D)
        inner = self.over_blocks(inner, _take(k, seen, n), _take(v, seen, n), _hidden(blocks, n, self.picks, N, q))
        y = torch.cat([ends[:, :, :n], inner.flatten(2, 3), ends[:, :, n:]], 2)         # (B, H, M, D)
        return self.out(y[:, :, :N])                                            # (B, N, C)

    def seen(self, blocks: int, like: Tensor) -> Tensor:
        """The blocks that an inner block sees, (heads, blocks - 2, 5 + picks): first, neighbours, random ones, last."""
        drawn = self.heads, blocks, self.picks, self.seed

        def make() -> Tensor:
            rows = [[[0, i - 1, i, i + 1, *picks, blocks - 1] for i, picks in enumerate(head, 1)]
                    for head in self.plan(*drawn)]
            return torch.tensor(rows, device=like.device)
        return by_size(("big_bird_seen", self.plan, *drawn), like, make)


def _take(x: Tensor, seen: Tensor, n: int) -> Tensor:
    """The tokens of the blocks that each block sees: (B, H, M, D) and (H, G, S) -> (B, H, G, S · n, D)."""
    B, H, M, D = x.shape
    rows = (torch.arange(B * H, device=x.device) * (M // n)).view(B, H, 1, 1) + seen
    taken = x.reshape(B * H * (M // n), n * D).index_select(0, rows.flatten())
    return taken.view(B, H, seen.shape[1], -1, D)


def _hidden(blocks: int, n: int, picks: int, N: int, like: Tensor) -> Tensor:
    """(blocks - 2, 1, (5 + picks) · n): -inf for tokens from N on, and for neighbours that are global too."""
    def make() -> Tensor:
        bias = torch.zeros(blocks - 2, 5 + picks, n, dtype=like.dtype, device=like.device)
        bias[0, 1] = bias[-1, 3] = float("-inf")
        bias[:, -1, N - (blocks - 1) * n:] = float("-inf")
        return bias.flatten(1)[:, None]
    return by_size(("big_bird_hidden", blocks, n, picks, N), like, make)


def _mixer(dim: int, heads: int, grid: tuple[int, int]) -> BlockSparseAttention:
    """With twelve blocks at least, of which most see eight, or the few tokens of an image would all see each other."""
    return BlockSparseAttention(dim, heads, block=max(1, min(64, grid[0] * grid[1] // 12)))


big_bird = Mechanism(
    build=BlockSparseAttention, mixer=_mixer, takes=Takes.TOKENS, time=LINEAR, memory=LINEAR, where="section 2",
    shows="the weights of the first and last block, (B, heads, 2n, N), and those of each block between over the blocks "
          "that it sees, (B, heads, blocks - 2, n, (5 + picks) n); up to 5 + picks blocks, (B, heads, N, N)")
