"""Performer: random features whose products are, on average, the exponentials that a softmax is made of.

Choromanski et al., ICLR 2021, arXiv:2009.14794 (FAVOR+). So the keys can be summed up once, for all queries.
"""
import torch
from torch import Tensor, nn

from vitrail.core.card import Idea, Paper
from vitrail.core.mechanism import LINEAR, Mechanism, Takes
from vitrail.nn import Elsewhere, Merge, Split

PAPER = Paper(title="Rethinking Attention with Performers", arxiv="2009.14794", authors="Choromanski et al.", year=2021,
              venue="ICLR", code="google-research/google-research", license="Apache-2.0",
              ideas=(Idea("attention.self_attention", "section 2.1", "attention, estimated without bias"),
                     Idea("attention.linear", "introduction", "keys and values summed up before the queries"),
                     Idea("random_features", "section 2", "a kernel as products of random features"),
                     Idea("orthogonal_features", "section 2.4", "features orthogonal to each other")))

EPS = 1e-6          # of the published code, added to every feature: a sum of them is then never zero


def directions(count: int, dim: int) -> Tensor:
    """Random directions (count, dim): orthogonal in blocks of `dim`, as long as normal vectors (section 2.4)."""
    blocks = [nn.init.orthogonal_(torch.empty(dim, dim)) for _ in range(-(-count // dim))]
    return torch.cat(blocks)[:count] * torch.randn(count, dim).norm(dim=1, keepdim=True)


def exponent(x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """ω·x (*B, M) for each direction ω in w (M, D), and |x|²/2 (*B, 1), of x (*B, D); in float32 at least.

    exp(ω·x - |x|²/2) is a positive random feature: over normal ω the product of those of x and of y is exp(x·y) on
    average (lemma 1).
    """
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    return x @ w.to(x).mT, x.square().sum(-1, keepdim=True) / 2


def attend_features(q: Tensor, k: Tensor, v: Tensor, *, eps: float = 0.0) -> Tensor:
    """q (kᵀ v) / (q Σ k + eps) for features q, k (*B, N, M): (*B, N, D), in time and memory N (equation 4)."""
    return q @ (k.mT @ v.to(k.dtype)) / (q @ k.sum(-2)[..., None] + eps)


class Performer(nn.Module):
    """Multi-head attention through `count` random features: (B, N, C) -> (B, N, C).

    An estimate of softmax attention without bias of its kernel, the better the more features. The directions, one set
    for all heads, are a buffer that is saved with the weights; `redraw` takes new ones, as the paper does now and then
    in training. As in the published code, the largest exponent is taken off before exp (a query's own, and the keys'
    together), which changes no quotient but for `EPS`.
    """

    directions: Tensor

    def __init__(self, dim: int, heads: int, *, count: int = 256):
        super().__init__()
        if count < 1:
            raise ValueError(f"a kernel is estimated from one feature at least, not {count}")
        self.groups = Elsewhere("sums over all tokens")
        self.qkv, self.out = Split(dim, heads, 3), Merge(dim)
        self.register_buffer("directions", directions(count, dim // heads))

    @torch.no_grad()
    def redraw(self) -> None:
        """New directions in place of the old."""
        self.directions.copy_(directions(*self.directions.shape))

    def forward(self, x: Tensor) -> Tensor:                                     # (B, N, C)
        q, k, v = self.qkv(x)                                                   # (B, H, N, D)
        q, k = self.features(q, (-1,)), self.features(k, (-2, -1))              # (B, H, N, M)
        return self.out(attend_features(q, k, v).to(x.dtype))                   # (B, N, C)

    def features(self, x: Tensor, over: tuple[int, ...]) -> Tensor:
        """exp(ω·x - |x|²/2 - max ω·x) + EPS, the largest `over` these axes: (B, H, N, D) -> (B, H, N, M).

        Queries and keys share the scale 1/√D of the softmax. The 1/√M of equation 5 cancels in the quotient.
        """
        along, half = exponent(x * x.shape[-1] ** -0.25, self.directions)
        return (along - half - along.amax(over, keepdim=True)).exp() + EPS


performer = Mechanism(
    build=Performer, mixer=lambda dim, heads, grid: Performer(dim, heads), takes=Takes.TOKENS, time=LINEAR,
    memory=LINEAR, where="section 2.2",
    shows="nothing: the keys are summed up before a query meets them, so no weights are ever made")
