"""SAGAN's attention: a non-local block for generator and discriminator, tamed by spectral norm and a gain born zero.

Zhang et al., ICML 2019, arXiv:1805.08318.
"""
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from vitrail.attention.non_local import max_pool
from vitrail.core.card import Idea, Paper
from vitrail.core.mechanism import QUADRATIC, Mechanism, Takes
from vitrail.nn import Attend, Elsewhere

PAPER = Paper(title="Self-Attention Generative Adversarial Networks", arxiv="1805.08318", authors="Zhang et al.",
              year=2019, venue="ICML", code="brain-research/self-attention-gan", license="Apache-2.0",
              builds_on=("attention.non_local",),
              ideas=(Idea("attention.non_local", "section 3", "the block, moved to generation"),))


def normed(layer: nn.Linear | nn.Conv2d) -> nn.Module:
    """A layer born Xavier-uniform, its bias 0, whose matrix is divided by its largest singular value (section 3.2)."""
    nn.init.xavier_uniform_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return spectral_norm(layer)


class Sagan(nn.Module):
    """γ v(o), o = softmax(f(x) g(x)ᵀ) h(x) (equations 1 to 3), every matrix divided by its largest singular value.

    As in the official code: scores are not scaled, f and g have dim / 8 channels and h has dim / 2 (the paper says
    dim / 8), g(x) and h(x) are max-pooled in squares of 2 x 2, nothing has a bias. Born with γ = `gain`, the
    published 0: `Residual(Sagan(dim, 1), nn.Identity())` is the paper's layer. Each call in training takes one step of
    power iteration towards the singular values. More heads than the published one split the channels.
    (B, h, w, C) -> (B, h, w, C). Raises ValueError where the heads do not divide dim.
    """

    def __init__(self, dim: int, heads: int, *, gain: float = 0.0):
        super().__init__()
        if heads < 1 or dim % heads:
            raise ValueError(f"{heads} heads do not divide a width of {dim}")
        narrow, half = (max(dim // part // heads, 1) * heads for part in (8, 2))
        self.heads = heads
        self.groups = Elsewhere("squares of places")
        self.f = normed(nn.Linear(dim, narrow, bias=False))
        self.g = normed(nn.Linear(dim, narrow, bias=False))
        self.h = normed(nn.Linear(dim, half, bias=False))
        self.v = normed(nn.Linear(half, dim, bias=False))
        self.attend = Attend()
        self.gain = nn.Parameter(torch.tensor(gain))

    def forward(self, x: Tensor) -> Tensor:                                 # (B, h, w, C)
        q = self.split(self.f(x))                                           # (B, H, N, D)
        k = self.split(max_pool(self.g(x), 2))                              # (B, H, M, D)
        v = self.split(max_pool(self.h(x), 2))                              # (B, H, M, V)
        o = self.attend(q, k, v, scale=1.0)                                # (B, H, N, V)
        return self.v(o.transpose(1, 2).flatten(2)).view_as(x) * self.gain

    def split(self, x: Tensor) -> Tensor:
        return x.flatten(1, 2).unflatten(-1, (self.heads, -1)).transpose(1, 2)


# within a pre-norm block the residual is the block's own, and a gain of 0 would only delay the start
sagan_attention = Mechanism(
    build=Sagan, mixer=lambda dim, heads, grid: Sagan(dim, heads, gain=1.0), takes=Takes.MAP,
    time=QUADRATIC, memory=QUADRATIC, where="equation 1 (the fused kernel that runs here holds no N x N/4 map)",
    shows="the weights over the pooled map, (B, heads, N, N / 4)")
