"""The parts of attention: projections in, the product, the place where weights are seen, projection out."""
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Visible(nn.Module):
    """A leaf that attention weights pass through. `vitrail.record` hooks every instance."""


class Softmax(Visible):
    """Scores (..., N, M) to weights that sum to one over the keys."""

    def forward(self, scores: Tensor) -> Tensor:
        return scores.softmax(-1)


class Shown(Visible):
    """Weights that a mechanism made in its own way, shown as they are."""

    def forward(self, weights: Tensor) -> Tensor:
        return weights


class Attend(nn.Module):
    """softmax(q kᵀ · scale + bias) v (Vaswani et al. 2017, equation 1), scale 1/√D unless given.

    q (*B, H, N, D), k (*B, H, M, D), v (*B, H, M, V), bias broadcast to (*B, H, N, M); returns (*B, H, N, V).
    `fused` runs the fused kernel. `watched` shows the weights to the recorder beside it, which leaves
    the output as it was, bit for bit. With `fused` off the weights stand in the path of the gradient, and so within
    `second_derivatives`.
    """

    written_out = False                 # of all of them, within `second_derivatives`

    def __init__(self) -> None:
        super().__init__()
        self.softmax = Softmax()
        self.fused, self.watched = True, False

    def forward(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None, *,
                scale: float | None = None) -> Tensor:
        if not self.fused or self.written_out:
            return self.weights(q, k, bias, scale) @ v
        if self.watched:
            with torch.no_grad():
                self.weights(q, k, bias, scale)
        if (values := v.shape[-1]) != (width := q.shape[-1]):
            return self._evened(q, k, v, bias, scale=width ** -0.5 if scale is None else scale)[..., :values]
        return self._kernel(q, k, v, bias, scale)

    def _evened(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float) -> Tensor:
        """Zeros fill up what is narrower: the fused kernel takes one width, and no other one spares the weights."""
        wide = max(q.shape[-1], v.shape[-1])
        q, k, v = (F.pad(t, (0, wide - t.shape[-1])) for t in (q, k, v))
        return self._kernel(q, k, v, bias, scale)

    @staticmethod
    def _kernel(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float | None) -> Tensor:
        if bias is not None and bias.requires_grad and q.device.type == "cpu" and not torch.compiler.is_compiling():
            # the processor's fused kernel learns no bias, and what torch has in its place copies queries and keys
            scores = q @ k.mT
            scale = q.shape[-1] ** -0.5 if scale is None else scale
            return torch.add(bias.to(scores.dtype), scores, alpha=scale).softmax(-1) @ v
        if bias is not None and bias.ndim == 3:
            bias = bias[None]                               # the fused CPU kernel takes a bias of two or four
        if q.ndim == 4:
            return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scale)
        groups = q.shape[:-3]                               # the fused CPU kernel takes four dimensions
        if bias is not None and bias.ndim > 3:
            if any(n != 1 for n in bias.shape[:-3]):        # else one for all, which the kernel need not see copied
                bias = bias.expand(*groups, *bias.shape[-3:])
            bias = bias.flatten(0, -4)
        q, k, v = (t.flatten(0, -4) for t in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scale).unflatten(0, groups)

    def weights(self, q: Tensor, k: Tensor, bias: Tensor | None = None, scale: float | None = None) -> Tensor:
        """The weights themselves: (*B, H, N, M)."""
        scores = q @ k.mT * (q.shape[-1] ** -0.5 if scale is None else scale)
        return self.softmax(scores if bias is None else scores + bias)


@contextmanager
def second_derivatives() -> Iterator[None]:
    """Within: attention is written out as products and a softmax, of which torch knows the second derivative; of its
    fused kernels it knows the first alone. For penalties on gradients (R1, Mescheder et al., arXiv:1801.04406).

    It holds for the whole process, so one thread at a time may be within.

        with second_derivatives():
            score = discriminator(image)
    """
    before = Attend.written_out
    Attend.written_out = True
    try:
        yield
    finally:
        Attend.written_out = before


class Split(nn.Module):
    """One projection, `parts` tensors: (*B, N, C) -> parts x (*B, H, N, D)."""

    def __init__(self, dim: int, heads: int, parts: int, *, bias: bool = True):
        super().__init__()
        if heads < 1 or dim % heads:
            raise ValueError(f"{heads} heads do not divide a width of {dim}")
        self.heads, self.parts = heads, parts
        self.proj = nn.Linear(dim, parts * dim, bias=bias)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = self.proj(x).unflatten(-1, (self.parts, self.heads, -1))    # (*B, N, parts, H, D)
        return x.movedim(-3, 0).transpose(-2, -3).unbind(0)


class Merge(nn.Module):
    """Heads side by side, projected: (*B, H, N, D) -> (*B, N, C)."""

    def __init__(self, dim: int, *, bias: bool = True):
        super().__init__()
        self.proj = nn.Linear(dim, dim, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x.transpose(-2, -3).flatten(-2))


class Groups(Protocol):
    """A partition of a map's tokens: `split` (B, H, W, C) -> (B, G, n, C), and `merge` back to (B, H, W, C)."""

    def split(self, x: Tensor) -> Tensor: ...

    def merge(self, x: Tensor, H: int, W: int) -> Tensor: ...


class GroupedAttention(nn.Module):
    """Multi-head self-attention inside each group of a map's tokens, by itself: (B, H, W, C) -> same.

    Zeros that fill up the last groups are attended like tokens. Raises ValueError where the heads do not divide dim.
    """

    def __init__(self, dim: int, heads: int, groups: Groups):
        super().__init__()
        self.groups = groups
        self.qkv, self.attend, self.out = Split(dim, heads, 3), Attend(), Merge(dim)

    def forward(self, x: Tensor) -> Tensor:             # (B, H, W, C)
        H, W = x.shape[1:3]
        q, k, v = self.qkv(self.groups.split(x))        # (B, G, h, n, D)
        return self.groups.merge(self.out(self.attend(q, k, v)), H, W)


class SelfAttention(nn.Module):
    """Multi-head self-attention over all tokens (Vaswani et al. 2017, section 3.2.2)."""

    def __init__(self, dim: int, heads: int, *, qkv_bias: bool = True):
        super().__init__()
        self.qkv, self.attend, self.out = Split(dim, heads, 3, bias=qkv_bias), Attend(), Merge(dim)

    def forward(self, x: Tensor) -> Tensor:             # (*B, N, C)
        q, k, v = self.qkv(x)                           # (*B, H, N, D)
        return self.out(self.attend(q, k, v))           # (*B, N, C)
