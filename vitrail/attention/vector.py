"""Vector attention: a place weighs its neighbours channel by channel, by what an MLP makes of their relation.

Zhao et al., CVPR 2020, arXiv:2004.13621. Pairwise, each neighbour is weighed by itself, as in a set; patchwise, all are
weighed at once by what the whole patch looks like, as a convolution tells its places apart.
"""
from collections.abc import Callable

import torch
from torch import Tensor, nn

from vitrail.core.card import Idea, Paper
from vitrail.core.mechanism import LINEAR, Mechanism, Takes
from vitrail.nn import BatchNorm, Chain, Conv, Elsewhere, Shown
from vitrail.ops.neighbours import by_offset, dots, gather, mix, pad_reflected, reach
from vitrail.ops.windows import by_size

PAPER = Paper(title="Exploring Self-attention for Image Recognition", arxiv="2004.13621", authors="Zhao et al.",
              year=2020, venue="CVPR", code="hszhao/SAN", license="MIT",
              ideas=(Idea("attention.self_attention", "section 4", "attention, there with scalar weights"),
                     Idea("attention.stand_alone", "section 4", "attention within a neighbourhood"),
                     Idea("attention.local_relation", "section 4", "attention within a neighbourhood")))

Relation = Callable[[Tensor, Tensor, int], Tensor]
"""What a relation makes of φ and ψ, maps (B, r, h, w), in a window: (B, R, k², h, w) of pairs, (B, R, h, w) of patches.
Beyond the edge a map is mirrored."""


def around(x: Tensor, window: int) -> Tensor:
    """(B, r, h, w) -> (B, r, k², h, w)"""
    return gather(pad_reflected(x, reach(window)), window).movedim(0, 2)


def summation(phi: Tensor, psi: Tensor, window: int) -> Tensor:
    """φ(x_i) + ψ(x_j)"""
    return phi[:, :, None] + around(psi, window)


def subtraction(phi: Tensor, psi: Tensor, window: int) -> Tensor:
    """φ(x_i) - ψ(x_j): the released pairwise form."""
    return phi[:, :, None] - around(psi, window)


def concatenation(phi: Tensor, psi: Tensor, window: int) -> Tensor:
    """[φ(x_i), ψ(x_j)]"""
    near = around(psi, window)
    return torch.cat([phi[:, :, None].expand_as(near), near], 1)


def hadamard_product(phi: Tensor, psi: Tensor, window: int) -> Tensor:
    """φ(x_i) ⊙ ψ(x_j)"""
    return phi[:, :, None] * around(psi, window)


def dot_product(phi: Tensor, psi: Tensor, window: int) -> Tensor:
    """φ(x_i) · ψ(x_j)"""
    return star_product(phi, psi, window)[:, None]


def star_product(phi: Tensor, psi: Tensor, window: int) -> Tensor:
    """[φ(x_i) · ψ(x_j)] for all j"""
    return dots(phi, pad_reflected(psi, reach(window)), window).movedim(0, 1)


def clique_product(phi: Tensor, psi: Tensor, window: int) -> Tensor:
    """[φ(x_j) · ψ(x_k)] for all j and k, so window⁴ numbers a place"""
    return torch.einsum("brjyx,brkyx->bjkyx", around(phi, window), around(psi, window)).flatten(1, 2)


def patch_concatenation(phi: Tensor, psi: Tensor, window: int) -> Tensor:
    """[φ(x_i), ψ(x_j) for all j]: the released patchwise form."""
    return torch.cat([phi, around(psi, window).flatten(1, 2)], 1)


class _Vector(nn.Module):
    """What both kinds share: the transformations φ, ψ, β of the input, and the way out."""

    def __init__(self, dim: int, heads: int, window: int, width: int | None, hidden: int | None):
        super().__init__()
        if heads < 1 or width is not None and width % heads:
            raise ValueError(f"{heads} groups do not divide a width of {width}")
        width = max(dim // 4 // heads, 1) * heads if width is None else width
        self.heads, self.window, self.reach = heads, window, reach(window)
        self.hidden = max(dim // 16, 1) if hidden is None else hidden
        self.groups = Elsewhere(f"the {window} x {window} places around it, channel by channel")
        self.phi, self.psi = Conv(dim, self.hidden, 1), Conv(dim, self.hidden, 1)
        self.beta, self.shown = Conv(dim, width, 1), Shown()
        self.out = Chain(norm=BatchNorm(width), act=nn.ReLU(), expand=Conv(width, dim, 1))

    def relation(self, relate: Relation, x: Tensor) -> Tensor:
        """δ of every place: (B, R, ...)."""
        return relate(self.phi(x).movedim(-1, 1), self.psi(x).movedim(-1, 1), self.window)

    def relations(self, relate: Relation) -> int:
        """R, asked of the relation itself."""
        one = torch.zeros(1, self.hidden, 1, 1)
        return relate(one, one, self.window).shape[1]

    def aggregate(self, weights: Tensor, x: Tensor) -> Tensor:
        """Σ_j w_ij ⊙ β(x_j) for weights (B, G, N, k²), projected; channel c of β is weighed by number c mod G."""
        values = self.beta(x).movedim(-1, 1).unflatten(1, (-1, self.heads)).transpose(1, 2)     # (B, G, D, h, w)
        w = by_offset(self.shown(weights), *x.shape[1:3])                               # (K, B, G, h, w)
        y = mix(w, pad_reflected(values, self.reach), self.window)                      # (B, G, D, h, w)
        return self.out(y.transpose(1, 2).flatten(1, 2).movedim(1, -1))


class VectorPairwise(_Vector):
    """Σ_j softmax_j(γ([δ(x_i, x_j), p_i - p_j])) ⊙ β(x_j) over the window around i (section 3.1).

    δ is `relate` of φ(x) and ψ(x), which have `hidden` channels (a sixteenth of dim); β(x) has `width` (a quarter),
    `heads` of which have weights of their own. γ is norm, ReLU, linear, twice. p is a linear map of a place's
    coordinates, -1 to 1 over the map, without the published bias: it cancels. Then norm, ReLU and a linear layer back
    to dim, as in the paper's block. The edge is mirrored, in p as well.
    (B, h, w, C) -> (B, h, w, C). Raises ValueError for an even window, or where the heads do not divide the width.
    """

    def __init__(self, dim: int, heads: int, *, window: int = 7, relate: Relation = subtraction,
                 width: int | None = None, hidden: int | None = None):
        super().__init__(dim, heads, window, width, hidden)
        self.relate, many = relate, self.relations(relate) + 2
        self.place = nn.Linear(2, 2, bias=False)
        self.gamma = Chain(norm1=BatchNorm(many), act1=nn.ReLU(), fc1=Conv(many, self.hidden, 1, bias=False),
                           norm2=BatchNorm(self.hidden), act2=nn.ReLU(), fc2=Conv(self.hidden, heads, 1))

    def forward(self, x: Tensor) -> Tensor:                                             # (B, h, w, C)
        h, w = x.shape[1:3]
        delta = self.relation(self.relate, x)                                           # (B, R, K, h, w)
        p = self.place(_coordinates(h, w, x)).movedim(-1, 0)[None]                      # (1, 2, h, w)
        apart = subtraction(p, p, self.window).expand(x.shape[0], -1, -1, -1, -1)           # (B, 2, K, h, w)
        scores = self.gamma(torch.cat([delta, apart], 1).flatten(3).permute(0, 3, 2, 1))        # (B, N, K, G)
        return self.aggregate(scores.transpose(1, 3).softmax(2).transpose(2, 3), x)     # (B, h, w, C)


class VectorPatchwise(_Vector):
    """Σ_j γ(δ(x_R))_j ⊙ β(x_j) over the window R around i, without softmax (section 3.2).

    δ is `relate` of φ(x) and ψ(x) over the whole patch, γ norm, ReLU, linear, twice; the rest is `VectorPairwise`'s.
    (B, h, w, C) -> (B, h, w, C). Raises ValueError for an even window, or where the heads do not divide the width.
    """

    def __init__(self, dim: int, heads: int, *, window: int = 7, relate: Relation = patch_concatenation,
                 width: int | None = None, hidden: int | None = None):
        super().__init__(dim, heads, window, width, hidden)
        self.relate, many = relate, self.relations(relate)
        self.gamma = Chain(norm1=BatchNorm(many), act1=nn.ReLU(), fc1=Conv(many, heads, 1, bias=False),
                           norm2=BatchNorm(heads), act2=nn.ReLU(), fc2=Conv(heads, window * window * heads, 1))

    def forward(self, x: Tensor) -> Tensor:                                             # (B, h, w, C)
        delta = self.relation(self.relate, x)                                           # (B, R, h, w)
        weights = self.gamma(delta.movedim(1, -1)).flatten(1, 2)                        # (B, N, L)
        return self.aggregate(weights.unflatten(-1, (self.heads, -1)).transpose(1, 2), x)       # (B, h, w, C)


def _coordinates(h: int, w: int, like: Tensor) -> Tensor:
    """(h, w, 2): (x, y) of each place, from -1 to 1."""
    def make() -> Tensor:
        x, y = (torch.linspace(-1, 1, n, dtype=like.dtype, device=like.device) for n in (w, h))
        return torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)
    return by_size(("vector_coordinates", h, w), like, make)


vector_pairwise = Mechanism(
    build=VectorPairwise, mixer=lambda dim, heads, grid: VectorPairwise(dim, heads), takes=Takes.MAP, time=LINEAR,
    memory=LINEAR, where="section 3: the footprint is local",
    shows="the weights of each place's window, row by row, for each group of channels, (B, groups, N, window²)")
vector_patchwise = Mechanism(
    build=VectorPatchwise, mixer=lambda dim, heads, grid: VectorPatchwise(dim, heads), takes=Takes.MAP, time=LINEAR,
    memory=LINEAR, where="section 3: the footprint is local",
    shows="the weights of each place's window, which need not sum to 1 nor be positive, (B, groups, N, window²)")
