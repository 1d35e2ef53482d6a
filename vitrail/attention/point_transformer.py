"""Point Transformer: a point asks its nearest neighbours, every few channels with weights of their own.

Zhao et al., ICCV 2021, arXiv:2012.09164. Differences take the place of products: of features, and of places.
"""
import torch
from torch import Tensor, nn

from vitrail.core.card import Idea, Paper
from vitrail.core.errors import ModelError
from vitrail.core.mechanism import LINEAR, QUADRATIC, Mechanism, Takes
from vitrail.nn import Chain, Elsewhere, Softmax
from vitrail.ops.points import nearest_points, points_at

PAPER = Paper(title="Point Transformer", arxiv="2012.09164", authors="Zhao et al.", year=2021, venue="ICCV",
              code="POSTECH-CVLab/point-transformer",
              ideas=(Idea("attention.self_attention", "section 3.1", "attention over a set"),
                     Idea("attention.vector", "section 3.1", "weights channel by channel, of differences")))


class PointTransformer(nn.Module):
    """y_i = Σ_j ρ(γ(ψ(x_j) - φ(x_i) + δ_ij)) ⊙ (α(x_j) + δ_ij), δ_ij = θ(p_j - p_i), j near i (equation 3).

    ρ is the softmax over the neighbours. As in the official code the differences are the neighbour's minus its own,
    γ and θ hold batch norms, and γ makes `heads` weights (there C/8), of which head m serves channels m, m + heads,
    m + 2 heads, ... `axes` is the number of coordinates. Raises ModelError where the heads do not divide the width.
    """

    def __init__(self, dim: int, heads: int, *, neighbours: int = 16, axes: int = 3):
        super().__init__()
        if heads < 1 or dim % heads:
            raise ModelError(f"{heads} heads do not divide a width of {dim}")
        if neighbours < 1:
            raise ModelError(f"a point needs a neighbour (itself is the first), not {neighbours}")
        self.neighbours = neighbours
        self.groups = Elsewhere("its nearest points")
        self.q, self.k, self.v = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.theta = Chain(nn.Linear(axes, axes), _Norm(axes), nn.ReLU(), nn.Linear(axes, dim))
        self.gamma = Chain(_Norm(dim), nn.ReLU(), nn.Linear(dim, heads), _Norm(heads), nn.ReLU(),
                           nn.Linear(heads, heads))
        self.softmax = Softmax()

    def forward(self, xyz: Tensor, x: Tensor) -> Tensor:
        """Places (B, N, axes) and features (B, N, C) of the points -> (B, N, C)."""
        near = nearest_points(xyz, self.neighbours)                                 # (B, N, K)
        delta = self.theta((points_at(xyz, near) - xyz[:, :, None]).to(x.dtype))    # (B, N, K, C)
        scores = self.gamma(points_at(self.k(x), near) - self.q(x)[:, :, None] + delta)     # (B, N, K, H)
        weights = self.softmax(scores.permute(0, 3, 1, 2))                          # (B, H, N, K)
        values = (points_at(self.v(x), near) + delta).unflatten(-1, (-1, weights.shape[1]))     # (B, N, K, D, H)
        return torch.einsum("bhnk,bnkdh->bndh", weights, values).flatten(2)


class PointTransformerMap(nn.Module):
    """The places of a map as points of a plane, a pixel apart: (B, h, w, C) -> (B, h, w, C).

    Born with 13 neighbours, all that lie within two pixels: of 16, the published number, the last three would be a
    choice among eight that are equally far.
    """

    def __init__(self, dim: int, heads: int, *, neighbours: int = 13):
        super().__init__()
        self.points = PointTransformer(dim, heads, neighbours=neighbours, axes=2)
        self.groups = self.points.groups

    def forward(self, x: Tensor) -> Tensor:
        B, h, w, _ = x.shape
        rows, columns = (torch.arange(size, dtype=torch.float32, device=x.device) for size in (h, w))
        places = torch.cartesian_prod(rows, columns).flip(-1)                       # (N, 2)
        return self.points(places.expand(B, -1, -1), x.flatten(1, 2)).view_as(x)


class _Norm(nn.BatchNorm1d):
    """Batch normalisation over all but the last axis."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(0, -2)).view_as(x)


point_transformer = Mechanism(
    build=PointTransformer, mixer=lambda dim, heads, grid: PointTransformerMap(dim, heads), takes=Takes.MAP,
    time=QUADRATIC, memory=LINEAR, where="section 3.2 (linear for given neighbours; to find them takes N^2 distances)",
    shows="the weights of the neighbours, (B, heads, N, neighbours)")
