"""Attention-augmented convolution: some of a layer's channels come from a convolution, the others from attention.

Bello et al., ICCV 2019, arXiv:1904.09925.
"""
import torch
from torch import Tensor, nn

from vitrail.core.card import Idea, Paper
from vitrail.core.mechanism import QUADRATIC, Mechanism, Takes
from vitrail.nn import Attend, Conv, Elsewhere, Merge
from vitrail.ops.neighbours import reach
from vitrail.positions.relative_2d import RelativeLogits2d

PAPER = Paper(title="Attention Augmented Convolutional Networks", arxiv="1904.09925", authors="Bello et al.",
              year=2019, venue="ICCV", builds_on=("positions.relative_2d",),
              ideas=(Idea("attention.self_attention", "section 3.1", "several heads over all places"),
                     Idea("positions.relative_2d", "section 3.1", "its positions"),
                     Idea("attention.non_local", "related work", "attention among convolutions")))


class RelativeAttention2d(nn.Module):
    """Attention over all places of a map, with relative logits in two dimensions, projected.

    Queries and keys have `keys` channels and values `values`, over all heads. The projection holds keys, queries and
    values in this order, the paper's. (B, h, w, C) -> (B, h, w, values).
    Raises ValueError where the heads do not divide keys or values.
    """

    groups: Elsewhere | None = None

    def __init__(self, dim: int, heads: int, *, grid: tuple[int, int], keys: int, values: int):
        super().__init__()
        if heads < 1 or keys < heads or keys % heads or values % heads:
            raise ValueError(f"{heads} heads do not divide {keys} channels of keys and {values} of values")
        self.heads, self.keys, self.values = heads, keys, values
        self.kqv = nn.Linear(dim, 2 * keys + values)
        self.position = RelativeLogits2d(grid, keys // heads)
        self.attend, self.out = Attend(), Merge(values)

    def forward(self, x: Tensor) -> Tensor:                                             # (B, h, w, C)
        grid = (x.shape[1], x.shape[2])
        k, q, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in
                   self.kqv(x.flatten(1, 2)).split((self.keys, self.keys, self.values), -1))    # 3 x (B, H, N, D)
        q, k = self.position.widen(q * q.shape[-1] ** -0.5, k, grid)                    # (B, H, N, E)
        return self.out(self.attend(q, k, v, scale=1.0)).unflatten(1, grid)


class AttentionAugmented(nn.Module):
    """[conv(x), attention(x)]: dim - values channels of a window x window convolution, `values` of attention.

    None of either is allowed: values = 0 is the convolution alone, values = dim the attention.
    (B, h, w, C) -> (B, h, w, C). Raises ValueError for an even window, more values than channels, or heads that do
    not divide keys and values.
    """

    def __init__(self, dim: int, heads: int, *, grid: tuple[int, int], keys: int, values: int, window: int = 3):
        super().__init__()
        if not 0 <= values <= dim:
            raise ValueError(f"{values} of {dim} channels cannot come from attention")
        self.branches = nn.ModuleDict()
        if values < dim:
            self.branches["conv"] = Conv(dim, dim - values, window, padding=reach(window))
        if values:
            attention = RelativeAttention2d(dim, heads, grid=grid, keys=keys, values=values)
            if values < dim:                                    # its weights are not all that moves between places
                attention.groups = Elsewhere("all places, and by convolution at its neighbours once more")
            self.branches["attention"] = attention

    def forward(self, x: Tensor) -> Tensor:                                             # (B, h, w, C)
        return torch.cat([branch(x) for branch in self.branches.values()], -1)          # (B, h, w, C)


def _mixer(dim: int, heads: int, grid: tuple[int, int]) -> AttentionAugmented:
    """The paper's shares: a fifth of the channels for keys, but 20 a head at least, and a tenth for values."""
    keys, values = heads * max(dim // 5 // heads, 20), heads * max(dim // 10 // heads, 1)
    return AttentionAugmented(dim, heads, grid=grid, keys=keys, values=values)


attention_augmented = Mechanism(
    build=AttentionAugmented, mixer=_mixer, takes=Takes.MAP, time=QUADRATIC, memory=QUADRATIC,
    where="section 3: O((HW)² heads) for the logits (here they go through the fused kernel and are never held)",
    shows="the weights of the attention's half, (B, heads, N, N)")
