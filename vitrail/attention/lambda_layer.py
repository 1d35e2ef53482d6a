"""Lambda layers: a place's surroundings become a small matrix, which its queries go through. No attention map at all.

Bello, ICLR 2021, arXiv:2102.08602.
"""
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from vitrail.core.card import Idea, Paper
from vitrail.core.mechanism import LINEAR, QUADRATIC, Mechanism, Takes
from vitrail.nn import BatchNorm, Elsewhere
from vitrail.ops.neighbours import reach
from vitrail.ops.positions import resample_positions

PAPER = Paper(title="LambdaNetworks: Modeling Long-Range Interactions Without Attention", arxiv="2102.08602",
              authors="Bello", year=2021, venue="ICLR",
              ideas=(Idea("attention.self_attention", "section 2", "queries, keys and values"),
                     Idea("attention.linear", "related work", "keys and values summed up before the queries"),
                     Idea("attention.stand_alone", "introduction", "a layer in place of convolutions")))


class Lambda(nn.Module, ABC):
    """y_n = (λ^c + λ^p_n)ᵀ q_n (equations 1 and 2), for each of the heads' queries, by the same matrices λ (K x V).

    λ^c = softmax(k)ᵀ v is of what the map holds, the softmax being over its places; λ^p_n = E_nᵀ v is of where it
    stands, left to the subclass. Keys and queries have `keys` channels, values dim / heads; with `intra` u > 1 there
    are u keys and values a place, whose λ are added (appendix B.4). Queries and values are batch-normalised. There is
    no official code; the layer is born as timm's.
    (B, h, w, C) -> (B, h, w, C). Raises ValueError where the heads do not divide dim.
    """

    def __init__(self, dim: int, heads: int, *, keys: int = 16, intra: int = 1):
        super().__init__()
        if heads < 1 or dim % heads:
            raise ValueError(f"{heads} heads do not divide a width of {dim}")
        if keys < 1 or intra < 1:
            raise ValueError(f"there is at least one key, and of one channel, not {intra} of {keys}")
        self.heads, self.keys, self.intra = heads, keys, intra
        self.widths = [heads * keys, intra * keys, intra * dim // heads]
        self.groups = Elsewhere("sums over all places")
        self.qkv = nn.Linear(dim, sum(self.widths), bias=False)
        self.norm_q, self.norm_v = BatchNorm(self.widths[0]), BatchNorm(self.widths[2])
        nn.init.normal_(self.qkv.weight, std=dim ** -0.5)

    def forward(self, x: Tensor) -> Tensor:                                             # (B, h, w, C)
        q, k, v = self.qkv(x).split(self.widths, -1)
        q, v = (t.unflatten(-1, (parts, -1)) for t, parts in ((self.norm_q(q), self.heads),
                                                              (self.norm_v(v), self.intra)))
        k = k.flatten(1, 2).softmax(1).unflatten(-1, (self.intra, -1))                  # (B, N, U, K)
        content = torch.einsum("bnuk,bnuv->bkv", k, v.flatten(1, 2))                    # (B, K, V)
        y = torch.einsum("bhwgk,bkv->bhwgv", q, content)                                # (B, h, w, H, V)
        return (y + self.placed(q, v)).flatten(3)                                       # (B, h, w, C)

    @abstractmethod
    def placed(self, q: Tensor, v: Tensor) -> Tensor:
        """λ^p_nᵀ q_n of every place: q (B, h, w, H, K), v (B, h, w, U, V) -> (B, h, w, H, V)."""


class LambdaGlobal(Lambda):
    """λ^p_n over the whole map, by a learned vector E of the offset m - n of two places (section 3.2).

    The table of offsets is of the `grid` it is born for; for other maps it is resampled. The paper's code gathers
    E_nm for all N² pairs. Here the pairs of columns are gathered and those of rows are not: what one row of places
    sees is a part of the table as it lies, so that 2 N^1.5 vectors are held, and the λ of one row at a time.
    """

    def __init__(self, dim: int, heads: int, *, grid: tuple[int, int], keys: int = 16, intra: int = 1):
        super().__init__(dim, heads, keys=keys, intra=intra)
        self.old = 2 * grid[0] - 1, 2 * grid[1] - 1
        self.offsets = nn.Parameter(0.02 * torch.randn(1, self.old[0] * self.old[1], intra * keys))

    def placed(self, q: Tensor, v: Tensor) -> Tensor:
        h, w = v.shape[1:3]
        table = resample_positions(self.offsets, (2 * h - 1, 2 * w - 1), old=self.old)
        table = table.unflatten(2, (self.intra, -1)).unflatten(1, (2 * h - 1, 2 * w - 1))[0]
        # unfold(1, w, 1)[:, s, :, :, m] is the column offset s + m - w + 1, which place w - 1 - s sees in column m
        pairs = table.unfold(1, w, 1).flip(1).permute(1, 3, 0, 4, 2)                    # (w, K, O, w, U)
        pairs = pairs.flatten(3).flatten(0, 1)                                          # (P, O, R)
        context = v.permute(1, 2, 3, 0, 4).flatten(3).flatten(0, 2)                     # (h w U, B V)
        rows: list[Tensor] = []
        for y in range(h):
            seen = pairs[:, h - 1 - y:2 * h - 1 - y].flatten(1)                         # (w K, h w U)
            matrices = (seen @ context).unflatten(0, (w, -1)).unflatten(-1, (v.shape[0], -1))   # (w, K, B, V)
            rows.append(torch.einsum("bwgk,wkbv->bwgv", q[:, y], matrices))             # (B, w, H, V)
        return torch.stack(rows, 1)


class LambdaLocal(Lambda):
    """λ^p_n over the window x window places around n: a convolution of the values to `keys` maps (lambda convolution).

    Beyond the edge the values are zero. Its bias, which the paper does not have, is that of all published code.
    Raises ValueError for an even window too.
    """

    def __init__(self, dim: int, heads: int, *, window: int = 23, keys: int = 16, intra: int = 1):
        super().__init__(dim, heads, keys=keys, intra=intra)
        self.conv = nn.Conv2d(intra, keys, window, padding=reach(window))
        nn.init.trunc_normal_(self.conv.weight, std=keys ** -0.5)

    def placed(self, q: Tensor, v: Tensor) -> Tensor:
        matrices = self.conv(v.permute(0, 4, 3, 1, 2).flatten(0, 1))                    # (P, K, h, w)
        matrices = matrices.unflatten(0, (v.shape[0], -1))                              # (B, V, K, h, w)
        return torch.einsum("bhwgk,bvkhw->bhwgv", q, matrices)


lambda_global = Mechanism(
    build=LambdaGlobal, mixer=lambda dim, heads, grid: LambdaGlobal(dim, heads, grid=grid), takes=Takes.MAP,
    time=QUADRATIC, memory=QUADRATIC,
    where="section 3.2: Θ(k N² + b N k v / h) held (this form holds 2 k N^1.5 in the place of k N²)",
    shows="nothing: the context becomes a K x V matrix a place, and places have no weights for each other")
lambda_local = Mechanism(
    build=LambdaLocal, mixer=lambda dim, heads, grid: LambdaLocal(dim, heads), takes=Takes.MAP,
    time=LINEAR, memory=LINEAR, where="section 3: lambda convolution, Θ(b N r k v / h) of time for r neighbours",
    shows="nothing: the context becomes a K x V matrix a place, and places have no weights for each other")
