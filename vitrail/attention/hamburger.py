"""Hamburger: global context as the low-rank part of a map, found by a few steps of matrix decomposition.

Geng et al., ICLR 2021, arXiv:2109.04553.
"""
from abc import ABC, abstractmethod
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.core.card import Idea, Paper
from vitrail.core.mechanism import LINEAR, Mechanism, Takes
from vitrail.nn import BatchNorm, Elsewhere

PAPER = Paper(title="Is Attention Better Than Matrix Decomposition?", arxiv="2109.04553", authors="Geng et al.",
              year=2021, venue="ICLR", code="Gsunshine/Enjoy-Hamburger", license="GPL-3.0",
              ideas=(Idea("attention.self_attention", "abstract", "the global context that it sets out to match"),
                     Idea("nmf", "method", "a factorisation without negative numbers")))


class Hamburger(nn.Module, ABC):
    """norm(W_u M(W_l x)): M, the ham, gives a matrix of rank `rank` that is near to what it gets (section 2.2).

    M runs `train_steps` or `eval_steps` steps from a fixed start without gradient, and one more with it (the one-step
    gradient): its gradient is not that of the whole run, which for many steps vanishes or explodes.
    The official code draws the start, `bases`, anew at each call, so that its answers differ from call to call even
    in evaluation. Here they are drawn once, from `seed`, and kept as a buffer; nor are they moved by what is seen.
    The `hidden` channels (by default dim) are decomposed in `heads` groups of their own, one as published.
    (B, h, w, C) -> (B, h, w, C), to be added to x. The published layer has a ReLU behind that sum.
    Raises ValueError where the heads do not divide hidden, or for no bases at all.
    """

    bases: Tensor

    def __init__(self, dim: int, heads: int, *, hidden: int | None = None, rank: int = 64, train_steps: int = 6,
                 eval_steps: int = 7, seed: int = 0):
        super().__init__()
        hidden = hidden or dim
        if heads < 1 or hidden % heads:
            raise ValueError(f"{heads} heads do not divide a width of {hidden}")
        if rank < 1:
            raise ValueError(f"a rank of {rank} leaves nothing; there is at least one base")
        self.heads, self.train_steps, self.eval_steps = heads, train_steps, eval_steps
        self.groups = Elsewhere(f"{rank} bases that all places share")
        self.lower, self.upper = nn.Linear(dim, hidden), nn.Linear(hidden, dim, bias=False)
        self.norm = BatchNorm(dim)
        for layer in (self.lower, self.upper):
            nn.init.normal_(layer.weight, std=(2 / layer.out_features) ** 0.5)
        bases = self.draw((heads, hidden // heads, rank), torch.Generator().manual_seed(seed))
        self.register_buffer("bases", F.normalize(bases, dim=1))

    def forward(self, x: Tensor) -> Tensor:                                             # (B, h, w, C)
        z = self.lower(x).flatten(1, 2).unflatten(-1, (self.heads, -1)).transpose(1, 2)     # (B, H, N, D)
        # sums over all places, ratios of them, and an inverse: 16 bits are too few
        wide = z.to(torch.promote_types(z.dtype, torch.float32))                        # (B, H, N, D)
        with nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False):
            y = self.ham(wide, self.bases.to(wide.dtype)).to(z.dtype)                   # (B, H, N, D)
        return self.norm(self.upper(y.transpose(1, 2).flatten(2)).unflatten(1, x.shape[1:3]))

    @property
    def steps(self) -> int:
        """How many steps are made without gradient."""
        return self.train_steps if self.training else self.eval_steps

    @staticmethod
    def draw(shape: tuple[int, int, int], generator: torch.Generator) -> Tensor:
        """The start before it is brought to unit length."""
        return torch.randn(shape, generator=generator)

    @abstractmethod
    def ham(self, x: Tensor, bases: Tensor) -> Tensor:
        """The low-rank part of x (B, H, N, D), from a start of bases (H, D, R): coefficients (B, H, N, R) times
        basesᵀ."""


class HamburgerNMF(Hamburger):
    """Non-negative matrix factorisation of ReLU(x), by multiplicative updates of both factors (algorithm 2)."""

    @staticmethod
    def draw(shape: tuple[int, int, int], generator: torch.Generator) -> Tensor:
        return torch.rand(shape, generator=generator)

    def ham(self, x: Tensor, bases: Tensor) -> Tensor:
        x = x.relu()
        with torch.no_grad():
            coefficients = (x @ bases).softmax(-1)
            for _ in range(self.steps):
                coefficients = updated(coefficients, x, bases)
                bases = updated(bases, x.mT, coefficients)
        return updated(coefficients, x, bases) @ bases.mT


class HamburgerVQ(Hamburger):
    """Vector quantisation: soft k-means by the cosine of the angle (algorithm 1).

    A place becomes the mean of the codes by their nearness. To the gradient, its own length is a constant.
    """

    def ham(self, x: Tensor, bases: Tensor) -> Tensor:
        with torch.no_grad():
            directions, length = F.normalize(x, dim=-1), x.norm(dim=-1, keepdim=True)
            for _ in range(self.steps):
                bases = means(x, nearest(directions, F.normalize(bases, dim=-2, eps=1e-6)))
            codes = F.normalize(bases, dim=-2, eps=1e-6)
        return nearest(x / (length + 1e-6), codes) @ bases.mT


class HamburgerCD(Hamburger):
    """Concept decomposition: soft spherical k-means, and then least squares with a ridge of 0.1."""

    def ham(self, x: Tensor, bases: Tensor) -> Tensor:
        with torch.no_grad():
            directions = F.normalize(x, dim=-1)
            for _ in range(self.steps):
                bases = F.normalize(means(x, nearest(directions, bases)), dim=-2, eps=1e-6)
            ridge = 0.1 * torch.eye(bases.shape[-1], dtype=x.dtype, device=x.device)
            inverse = torch.linalg.inv(bases.mT @ bases + ridge)                        # (B, H, R, R)
        return x @ bases @ inverse @ bases.mT


def updated(factor: Tensor, x: Tensor, other: Tensor) -> Tensor:
    """A factor a of x ≈ a bᵀ, times x b / (a bᵀ b): still non-negative, and nearer to x (Lee & Seung 2000)."""
    return factor * (x @ other) / (factor @ (other.mT @ other) + 1e-6)


def nearest(directions: Tensor, bases: Tensor) -> Tensor:
    """How much each direction (*, N, D) is of each base (*, D, R): (*, N, R), by far the most of the nearest one."""
    return (100 * (directions @ bases)).softmax(-1)


def means(x: Tensor, shares: Tensor) -> Tensor:
    """The mean place of each base, (*, D, R), by the shares (*, N, R) that places have in it."""
    return x.mT @ (shares / (shares.sum(-2, keepdim=True) + 1e-6))


def _rank(dim: int) -> int:
    """The published ratio of width to rank, 512 : 64."""
    return max(dim // 8, 1)


# a block's heads are none of the decomposition's groups: the published number is one, of the whole width
hamburger_nmf = Mechanism(
    build=HamburgerNMF, mixer=lambda dim, heads, grid: HamburgerNMF(dim, 1, rank=_rank(dim)), takes=Takes.MAP,
    time=LINEAR, memory=LINEAR, where="O(N d r) a step",
    shows="nothing: places have coefficients of common bases, and no weights for each other")
hamburger_vq = Mechanism(
    build=HamburgerVQ, mixer=lambda dim, heads, grid: HamburgerVQ(dim, 1, rank=_rank(dim)), takes=Takes.MAP,
    time=LINEAR, memory=LINEAR, where="O(N d r) a step",
    shows="nothing: places have coefficients of common bases, and no weights for each other")
hamburger_cd = Mechanism(
    build=HamburgerCD, mixer=lambda dim, heads, grid: HamburgerCD(dim, 1, rank=_rank(dim)), takes=Takes.MAP,
    time=LINEAR, memory=LINEAR, where="O(N d r) a step",
    shows="nothing: places have coefficients of common bases, and no weights for each other")
