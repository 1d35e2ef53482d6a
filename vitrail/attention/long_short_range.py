"""Long-short range attention: half of the channels attend over all tokens, half are convolved with their neighbours.

Wu et al., ICLR 2020, arXiv:2004.11886 (Lite Transformer). The convolutions are those of Wu et al., ICLR 2019,
arXiv:1901.10430: their taps are weights that sum to one, the same for all channels of a head.
"""
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.core.card import Idea, Paper
from vitrail.core.mechanism import QUADRATIC, Mechanism, Takes
from vitrail.nn import Attend, Elsewhere, Merge, Softmax, Split

PAPER = Paper(title="Lite Transformer with Long-Short Range Attention", arxiv="2004.11886", authors="Wu et al.",
              year=2020, venue="ICLR", code="mit-han-lab/lite-transformer", license="BSD-3-Clause",
              ideas=(Idea("attention.self_attention", "section 4", "the half that looks far"),
                     Idea("light_conv", "section 4", "the half that looks near")))


def slide(x: Tensor, taps: Tensor) -> Tensor:
    """A convolution along a sequence with taps of each token's own: (B, N, C) -> (B, N, C), zeros beyond the ends.

    taps (B, N, H, K): tap j of token i weighs token i + j - ⌊(K - 1) / 2⌋ in the channels of head H. Blocks of K
    tokens meet their 2 K - 1 neighbours in one product with a band matrix, in place of K passes over the sequence.
    """
    (N, H, K), G = taps.shape[1:], -(-x.shape[1] // taps.shape[3])
    x = F.pad(x, (0, 0, (K - 1) // 2, G * K - N + K // 2)).unflatten(2, (H, -1))
    near = x.unfold(1, 2 * K - 1, K).permute(0, 1, 2, 4, 3)                         # (B, G, H, 2 * K - 1, D)
    rows = F.pad(taps, (0, 0, 0, 0, 0, G * K - N)).unflatten(1, (G, K)).transpose(2, 3)
    # rows of K taps and K zeros, read in rows of 2 K - 1: each starts one place after the one above it
    band = F.pad(rows, (0, K)).flatten(3)[..., :-K].unflatten(3, (K, 2 * K - 1))    # (B, G, H, K, 2 * K - 1)
    return (band @ near).transpose(2, 3).flatten(3).flatten(1, 2)[:, :N]


class LightweightConvolution(nn.Module):
    """Learned taps, one set a head, between two projections: (B, N, C) -> (B, N, C)."""

    def __init__(self, dim: int, heads: int, *, taps: int = 31):
        super().__init__()
        check(dim, heads, taps)
        self.into, self.out = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.taps = nn.Parameter(torch.empty(heads, 1, taps))
        nn.init.xavier_uniform_(self.taps)
        xavier(self.into, self.out)

    def forward(self, x: Tensor) -> Tensor:                                         # (B, N, C)
        x = self.into(x)
        taps = self.taps.squeeze(1).softmax(-1).expand(*x.shape[:2], -1, -1)        # (B, N, H, K)
        return self.out(slide(x, taps))                                             # (B, N, C)


class DynamicConvolution(nn.Module):
    """Taps that a token makes from itself, between a gated projection and a plain one: (B, N, C) -> (B, N, C)."""

    def __init__(self, dim: int, heads: int, *, taps: int = 31):
        super().__init__()
        check(dim, heads, taps)
        self.groups = Elsewhere("the tokens right before and after it")
        self.heads = heads
        self.into, self.out = nn.Linear(dim, 2 * dim), nn.Linear(dim, dim)
        self.taps, self.softmax = nn.Linear(dim, heads * taps, bias=False), Softmax()
        xavier(self.into, self.taps, self.out)

    def forward(self, x: Tensor) -> Tensor:                                         # (B, N, C)
        x = F.glu(self.into(x))
        taps = self.softmax(self.taps(x).unflatten(2, (self.heads, -1)).transpose(1, 2))    # (B, H, N, K)
        return self.out(slide(x, taps.transpose(1, 2)))                             # (B, N, C)


def check(dim: int, heads: int, taps: int) -> None:
    if taps < 1:
        raise ValueError(f"a convolution has at least one tap, not {taps}")
    if heads < 1 or dim % heads:
        raise ValueError(f"{heads} heads do not divide a width of {dim}")


def xavier(*layers: nn.Linear) -> None:
    for layer in layers:
        nn.init.xavier_uniform_(layer.weight)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


class LongShortRange(nn.Module):
    """Attention on the first channels and `local`, a module on sequences, on the last `width`, side by side.

    (B, N, C) -> (B, N, C). Neither part sees the other's channels; the feed-forward layer of a block mixes them. An
    image is read row by row, as one sequence.
    """

    def __init__(self, dim: int, heads: int, *, local: nn.Module, width: int):
        super().__init__()
        if not 0 < width < dim:
            raise ValueError(f"a convolution on {width} of {dim} channels leaves none for one of the two parts")
        self.groups = Elsewhere("all tokens with some channels and at its neighbours with the others")
        self.sizes = dim - width, width
        self.qkv, self.attend, self.out = Split(dim - width, heads, 3), Attend(), Merge(dim - width)
        self.local = local

    def forward(self, x: Tensor) -> Tensor:                                         # (B, N, C)
        x, near = x.split(self.sizes, -1)
        return torch.cat([self.out(self.attend(*self.qkv(x))), self.local(near)], -1)


def _mixer(dim: int, heads: int, grid: tuple[int, int]) -> LongShortRange:
    half = dim // 2
    return LongShortRange(dim, heads, local=DynamicConvolution(half, heads), width=half)


long_short_range = Mechanism(
    build=LongShortRange, mixer=_mixer, takes=Takes.TOKENS, time=QUADRATIC, memory=QUADRATIC,
    where="section 4 (half of the channels attend; the fused kernel that runs here holds no N x N map)",
    shows="the weights of the half that attends, (B, heads, N, N), and the taps of the other, (B, heads, N, taps)")
