"""Criss-cross attention: a place looks at its own row and column only; a second pass with the same weights sees all.

Huang et al., ICCV 2019, arXiv:1811.11721.
"""
from typing import Any

import torch
from torch import Tensor, nn

from vitrail.core.card import Idea, Paper
from vitrail.core.mechanism import THREE_HALVES, Mechanism, Takes
from vitrail.nn import Elsewhere, Shown

PAPER = Paper(title="CCNet: Criss-Cross Attention for Semantic Segmentation", arxiv="1811.11721",
              authors="Huang et al.", year=2019, venue="ICCV", code="speedinghzl/CCNet", license="MIT",
              ideas=(Idea("attention.non_local", "introduction", "every place learns of all, by all pairs there"),))


class JointSoftmax(torch.autograd.Function):
    """One softmax over a place's row and the rest of its column, in place of the scores.

    rows (B, h, H, w, w) and columns (B, w, H, h, h) are overwritten by the weights, which is all that is kept for
    the gradient. The own place stands in both, and counts in the row only.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        columns.diagonal(dim1=-2, dim2=-1).fill_(float("-inf"))
        top = torch.maximum(rows.amax(-1), columns.amax(-1).transpose(1, 3))            # (B, h, H, w)
        rows.sub_(top[..., None]).exp_()
        columns.sub_(top.transpose(1, 3)[..., None]).exp_()
        total = rows.sum(-1) + columns.sum(-1).transpose(1, 3)                          # (B, h, H, w)
        rows.div_(total[..., None])
        columns.div_(total.transpose(1, 3)[..., None])
        ctx.mark_dirty(rows, columns)
        ctx.save_for_backward(rows, columns)
        return rows, columns

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        rows, columns = ctx.saved_tensors
        d_rows, d_columns = grads
        to_rows, to_columns = d_rows * rows, d_columns * columns
        mean = to_rows.sum(-1) + to_columns.sum(-1).transpose(1, 3)                     # (B, h, H, w)
        to_rows.addcmul_(rows, mean[..., None], value=-1)
        to_columns.addcmul_(columns, mean.transpose(1, 3)[..., None], value=-1)
        return to_rows, to_columns


def joint_softmax(rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """The same out of place: for a compiler, which spares memory in its own way, and for exported programs."""
    own = torch.eye(columns.shape[-1], dtype=torch.bool, device=columns.device)
    columns = columns.masked_fill(own, float("-inf"))
    top = torch.maximum(rows.amax(-1), columns.amax(-1).transpose(1, 3)).detach()   # (B, h, H, w)
    rows, columns = (rows - top[..., None]).exp(), (columns - top.transpose(1, 3)[..., None]).exp()
    total = rows.sum(-1) + columns.sum(-1).transpose(1, 3)                          # (B, h, H, w)
    return rows / total[..., None], columns / total.transpose(1, 3)[..., None]


class CrissCross(nn.Module):
    """γ Σ_j softmax(q_i · k_j) v_j over the h + w - 1 places j of i's row and column (section 3.2, equation 2).

    The scores are not scaled. γ is the official code's and born as `gain`, there 0: `Residual(CrissCross(dim, 1),
    nn.Identity())` is the paper's layer, and the identity at first. Queries and keys have `hidden` channels, by
    default an eighth of `dim`, rounded down to a multiple of `heads` (the paper has one head).
    (B, h, w, C) -> (B, h, w, C). Raises ValueError where the heads do not divide dim or hidden.
    """

    def __init__(self, dim: int, heads: int, *, hidden: int | None = None, gain: float = 0.0):
        super().__init__()
        if heads < 1 or dim % heads or (hidden or heads) % heads:
            raise ValueError(f"{heads} heads do not divide widths of {dim}{f' and {hidden}' if hidden else ''}")
        hidden = hidden or max(dim // 8 // heads, 1) * heads
        self.heads, self.hidden = heads, hidden
        self.groups = Elsewhere("its own row and column")
        self.qkv = nn.Linear(dim, 2 * hidden + dim)
        self.rows, self.columns = Shown(), Shown()
        self.gain = nn.Parameter(torch.tensor(gain))

    def forward(self, x: Tensor) -> Tensor:                                         # (B, h, w, C)
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(2, 3)
                   for t in self.qkv(x).split((self.hidden, self.hidden, x.shape[-1]), -1))     # 3 x (B, h, H, w, D)
        down_q, down_k, down_v = (t.transpose(1, 3) for t in (q, k, v))             # 3 x (B, w, H, h, D)
        softmax = joint_softmax if torch.compiler.is_compiling() else JointSoftmax.apply
        rows, columns = softmax(q @ k.mT, down_q @ down_k.mT)
        y = self.rows(rows) @ v                                                     # (B, h, H, w, V)
        y += (self.columns(columns) @ down_v).transpose(1, 3)
        return y.transpose(2, 3).flatten(3) * self.gain


class RecurrentCrissCross(nn.Module):
    """What `rounds` layers of criss-cross attention with the same weights add to x (section 3.3).

    A place that is not in the row or column of another shares two places with it, so two rounds see the whole map.
    (B, h, w, C) -> (B, h, w, C). Raises ValueError for no rounds at all.
    """

    def __init__(self, dim: int, heads: int, *, hidden: int | None = None, gain: float = 0.0, rounds: int = 2):
        super().__init__()
        if rounds < 1:
            raise ValueError(f"{rounds} rounds pass nothing on; there is at least one")
        self.groups = Elsewhere("its own row and column, and through them at all others")
        self.once, self.rounds = CrissCross(dim, heads, hidden=hidden, gain=gain), rounds

    def forward(self, x: Tensor) -> Tensor:                                         # (B, h, w, C)
        added = self.once(x)                                                        # (B, h, w, C)
        for _ in range(self.rounds - 1):
            added = added + self.once(x + added)                                    # (B, h, w, C)
        return added


# within a pre-norm block the residual is the block's own, and a gain of 0 would only delay the start
criss_cross = Mechanism(
    build=CrissCross, mixer=lambda dim, heads, grid: CrissCross(dim, heads, gain=1.0), takes=Takes.MAP,
    time=THREE_HALVES, memory=THREE_HALVES, where="section 1: O(N √N)",
    shows="the weights of rows (B, h, heads, w, w) and of columns (B, w, heads, h, h), which sum to 1 together")
recurrent_criss_cross = Mechanism(
    build=RecurrentCrissCross, mixer=lambda dim, heads, grid: RecurrentCrissCross(dim, heads, gain=1.0),
    takes=Takes.MAP, time=THREE_HALVES, memory=THREE_HALVES, where="section 1: O(N √N)",
    shows="the weights of rows (B, h, heads, w, w) and of columns (B, w, heads, h, h), in each round")
