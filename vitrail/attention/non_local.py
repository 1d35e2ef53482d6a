"""Non-local means as a layer: every place of a map or clip adds up all others, weighted by a function of the pair.

Wang et al., CVPR 2018, arXiv:1711.07971. Four functions of a pair; the official code has two of them (embedded
Gaussian and dot product).
"""
from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.core.card import Idea, Paper
from vitrail.core.mechanism import LINEAR, QUADRATIC, Mechanism, Takes
from vitrail.nn import Attend, Elsewhere, Residual, Shown

PAPER = Paper(title="Non-local Neural Networks", arxiv="1711.07971", authors="Wang et al.", year=2018, venue="CVPR",
              code="facebookresearch/video-nonlocal-net", license="CC-BY-NC-4.0",
              ideas=(Idea("non_local_means", "abstract", "a mean of all places, weighted by likeness"),
                     Idea("attention.self_attention", "section 3.2", "the softmax, as one function of a pair"),
                     Idea("backbones.resnet", "section 3.3", "a residual block, to be put anywhere")))


class NonLocal(nn.Module, ABC):
    """W_z y, y_i = 1/C(x) Σ_j f(x_i, x_j) g(x_j) over all j (equations 1 and 6), f left to the subclass.

    Maps (B, H, W, C) or clips (B, T, H, W, C), as they come in. y has `hidden` channels, half of `dim` as published.
    With `pool` = 2 (the official code's), the places j are those of x after max-pooling in squares of 2 x 2 within a
    frame; an odd last row or column is left out. The paper has one head: more of them split the channels.
    Raises ValueError where the heads do not divide dim or hidden.
    """

    def __init__(self, dim: int, heads: int, *, hidden: int | None = None, pool: int = 1):
        super().__init__()
        if heads < 1 or dim % heads or (hidden or heads) % heads:
            raise ValueError(f"{heads} heads do not divide widths of {dim}{f' and {hidden}' if hidden else ''}")
        self.hidden = hidden or max(dim // 2 // heads, 1) * heads
        self.heads, self.pool = heads, pool
        self.groups = Elsewhere("squares of places") if pool > 1 else None
        self.g, self.out = nn.Linear(dim, self.hidden), nn.Linear(self.hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        small = max_pool(x, self.pool)
        y = self.gather(x, small, self.split(self.g(small)))            # (B, H, N, D)
        return self.out(y.transpose(1, 2).flatten(2)).view_as(x)

    def split(self, x: Tensor) -> Tensor:
        """All places in one line, the channels split over heads: (B, ..., C) -> (B, H, N, D)."""
        return x.flatten(1, -2).unflatten(-1, (self.heads, -1)).transpose(1, 2)

    @abstractmethod
    def gather(self, x: Tensor, small: Tensor, g: Tensor) -> Tensor:
        """y (B, H, N, D) from x, its pooled form, and what the M places of that have to say, g (B, H, M, D)."""


class Gaussian(NonLocal):
    """f = exp(x_i · x_j), C = Σ_j f (equation 2): a softmax of the tokens' own products."""

    def __init__(self, dim: int, heads: int, *, hidden: int | None = None, pool: int = 1, scale: float = 1.0):
        super().__init__(dim, heads, hidden=hidden, pool=pool)
        self.attend, self.scale = Attend(), scale

    def gather(self, x: Tensor, small: Tensor, g: Tensor) -> Tensor:
        return self.attend(self.split(x), self.split(small), g, scale=self.scale)


class Embedded(NonLocal):
    """f = exp(θ(x_i) · φ(x_j)), C = Σ_j f (equation 3), times 1/√D within the exponential, as in the official code.

    `scale` 1 gives the paper's formula. φ has no bias: it would add the same to all scores of a place.
    """

    def __init__(self, dim: int, heads: int, *, hidden: int | None = None, pool: int = 1, scale: float | None = None):
        super().__init__(dim, heads, hidden=hidden, pool=pool)
        self.theta, self.phi = nn.Linear(dim, self.hidden), nn.Linear(dim, self.hidden, bias=False)
        self.attend, self.scale = Attend(), scale

    def gather(self, x: Tensor, small: Tensor, g: Tensor) -> Tensor:
        return self.attend(self.split(self.theta(x)), self.split(self.phi(small)), g, scale=self.scale)


class Dot(NonLocal):
    """f = θ(x_i) · φ(x_j), C = M (equation 4).

    Without a softmax the product is associative, θ (φᵀ g) = (θ φᵀ) g: no map of weights is made, and the cost is
    linear in the places.
    """

    def __init__(self, dim: int, heads: int, *, hidden: int | None = None, pool: int = 1):
        super().__init__(dim, heads, hidden=hidden, pool=pool)
        self.theta, self.phi = nn.Linear(dim, self.hidden), nn.Linear(dim, self.hidden)

    def gather(self, x: Tensor, small: Tensor, g: Tensor) -> Tensor:
        # the division comes first, so that in half precision the sum over the places stays in range
        return self.split(self.theta(x)) @ (self.split(self.phi(small)).mT @ (g / g.shape[2]))


class Concat(NonLocal):
    """f = ReLU(wᵀ [θ(x_i), φ(x_j)]), C = M (equation 5): w falls into a part for θ and one for φ, and so the product
    into a number for i plus a number for j."""

    def __init__(self, dim: int, heads: int, *, hidden: int | None = None, pool: int = 1):
        super().__init__(dim, heads, hidden=hidden, pool=pool)
        self.theta, self.phi = nn.Linear(dim, self.hidden), nn.Linear(dim, self.hidden)
        self.w = nn.Parameter(torch.empty(heads, 2 * self.hidden // heads))
        nn.init.kaiming_uniform_(self.w, a=5 ** 0.5)                    # the default of a convolution
        self.shown = Shown()

    def gather(self, x: Tensor, small: Tensor, g: Tensor) -> Tensor:
        w_theta, w_phi = self.w[..., None].chunk(2, 1)                  # (H, D, 1)
        asks = self.split(self.theta(x)) @ w_theta                      # (B, H, N, 1)
        says = self.split(self.phi(small)) @ w_phi                      # (B, H, M, 1)
        return self.shown((asks + says.mT).relu() / g.shape[2]) @ g


class PlaceNorm(nn.BatchNorm1d):
    """Batch normalisation of the channels over all places of maps or clips, (B, ..., C)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(0, -2)).view_as(x)


def non_local_block(mix: NonLocal, dim: int) -> Residual:
    """x + norm(W_z y), the block of the official code: every convolution from a normal of deviation 0.01 with biases
    0, and the norm's gain 0, so that a trained network does not change when the block is put into it (section 4.1)."""
    for part in mix.modules():
        if isinstance(part, nn.Linear):
            nn.init.normal_(part.weight, std=0.01)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
    norm = PlaceNorm(dim)
    nn.init.zeros_(norm.weight)
    return Residual(mix, nn.Identity(), scale=norm)


def max_pool(x: Tensor, size: int) -> Tensor:
    """Maps or clips (B, ..., H, W, C) max-pooled in squares of `size`, of which only whole ones count.

    A side that is shorter than a square is one whole square.
    """
    if size == 1:
        return x
    frames = x.flatten(0, -4).permute(0, 3, 1, 2)
    square = (min(size, x.shape[-3]), min(size, x.shape[-2]))
    return F.max_pool2d(frames, square).permute(0, 2, 3, 1).unflatten(0, x.shape[:-3])


# the mixers have neither norm nor residual: those are the surrounding block's
non_local_gaussian = Mechanism(
    # tokens behind a layer norm have products of deviation √D, whose bare exponential sees the token itself alone
    build=Gaussian, mixer=lambda dim, heads, grid: Gaussian(dim, heads, scale=(dim // heads) ** -0.5), takes=Takes.MAP,
    time=QUADRATIC, memory=QUADRATIC, where="section 3.3 (the fused kernel that runs here holds no N x N map)",
    shows="the weights, (B, heads, N, N)")
non_local_embedded = Mechanism(
    build=Embedded, mixer=lambda dim, heads, grid: Embedded(dim, heads), takes=Takes.MAP,
    time=QUADRATIC, memory=QUADRATIC, where="section 3.3 (the fused kernel that runs here holds no N x N map)",
    shows="the weights, (B, heads, N, N)")
non_local_dot = Mechanism(
    build=Dot, mixer=lambda dim, heads, grid: Dot(dim, heads), takes=Takes.MAP,
    time=LINEAR, memory=LINEAR, where="equation 4, multiplied from the right (the paper multiplies from the left: N^2)",
    shows="nothing: the products θ φᵀ are never made")
non_local_concat = Mechanism(
    build=Concat, mixer=lambda dim, heads, grid: Concat(dim, heads), takes=Takes.MAP,
    time=QUADRATIC, memory=QUADRATIC, where="section 3.3", shows="f / N, which sums to anything, (B, heads, N, N)")
