"""The k x k neighbours of every place of a map, and the two products that local attention makes with them.

Maps are channels first here, (..., D, H, W): the k² shifted copies of a map then are views of one padded map whose
rows lie in order, and no place of memory is written that a product does not need. What goes through `gather` costs k²
maps; `dots` and `mix` cost k² numbers a place, whatever D is. Offsets come row by row from the upper left, and k is
odd. No map is too small: what a neighbourhood has beyond the edge is zero, or masked, or reflected.
"""
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vitrail.ops.windows import by_size


def reach(window: int) -> int:
    """How far an odd window looks to each side. Raises ValueError where it has no middle."""
    if window < 1 or window % 2 == 0:
        raise ValueError(f"a neighbourhood of {window} x {window} places has no middle; the window must be odd")
    return window // 2


def pad_zero(x: Tensor, by: int) -> Tensor:
    """(*, H, W) -> (*, H + 2 by, W + 2 by) with zeros around."""
    return F.pad(x, (by, by, by, by))


def pad_reflected(x: Tensor, by: int) -> Tensor:
    """(*, H, W) -> (*, H + 2 by, W + 2 by), mirrored in its outermost places, as often as it takes."""
    for axis in (-2, -1):
        x = x.index_select(axis, _mirror(x.shape[axis], by, x))
    return x


def _mirror(n: int, by: int, like: Tensor) -> Tensor:
    """(n + 2 by): the places of a line of n that stand in for those of the line and its surroundings."""
    def make() -> Tensor:
        there_and_back = max(2 * (n - 1), 1)
        at = torch.arange(-by, n + by, device=like.device).remainder(there_and_back)
        return at.minimum(there_and_back - at) if n > 1 else at
    return by_size(("mirror", n, by), like, make)


def outside(H: int, W: int, window: int, like: Tensor) -> Tensor:
    """(k², H, W): -inf where a neighbour lies beyond the edge, else 0. Added to scores it masks them."""
    def make() -> Tensor:
        on = torch.zeros(H, W, dtype=like.dtype, device=like.device)
        by = reach(window)
        return gather(F.pad(on, (by, by, by, by), value=float("-inf")), window)
    return by_size(("outside", H, W, window), like, make)


def zero_edges(scores: Tensor, window: int) -> Tensor:
    """Scores (k², B, G, H, W) as they are: a neighbour beyond the edge is a zero like any other."""
    return scores


def masked_edges(scores: Tensor, window: int) -> Tensor:
    """Scores (k², B, G, H, W) with -inf beyond the edge, where nobody then looks."""
    H, W = scores.shape[-2:]
    return scores + outside(H, W, window, scores)[:, None, None]


def by_place(weights: Tensor) -> Tensor:
    """(k², B, G, H, W) -> (B, G, N, k²): what each place gives its neighbours, as weights are shown."""
    return weights.flatten(-2).movedim(0, -1)


def by_offset(weights: Tensor, H: int, W: int) -> Tensor:
    """(B, G, N, k²) -> (k², B, G, H, W): the inverse of `by_place`."""
    return weights.movedim(-1, 0).unflatten(-1, (H, W))


def views(padded: Tensor, window: int) -> list[Tensor]:
    """The k² views (*, H, W) of a padded map, each of which holds one neighbour of every place."""
    H, W = padded.shape[-2] - window + 1, padded.shape[-1] - window + 1
    return [padded[..., y:y + H, x:x + W] for y in range(window) for x in range(window)]


def gather(padded: Tensor, window: int) -> Tensor:
    """(*, H + k - 1, W + k - 1) -> (k², *, H, W): all neighbours of every place, written out."""
    return torch.stack(views(padded, window))


def dots(x: Tensor, padded: Tensor, window: int) -> Tensor:
    """The products Σ_D of every place with its neighbours: (*, D, H, W), padded -> (k², *, H, W)."""
    result: Tensor = _Dots.apply(x, padded, window)
    return result


def mix(weights: Tensor, padded: Tensor, window: int) -> Tensor:
    """The weighted sum of every place's neighbours: (k², *, H, W), padded (*, D, ...) -> (*, D, H, W)."""
    result: Tensor = _Mix.apply(weights.to(padded.dtype), padded, window)
    return result


# The gradients of the three products below are the three again, so they can be differentiated as often as one likes.
# They add into one map; autograd's own, of k² slices, would fill a map of zeros for each, at three times the time.
# k² terms of 16 bits are added up in 32.

def _sum_of(*shape: int, like: Tensor) -> Tensor:
    wide = torch.float32 if like.dtype in (torch.float16, torch.bfloat16) else like.dtype
    return torch.zeros(shape, dtype=wide, device=like.device)


class _Dots(torch.autograd.Function):
    """s[o] = Σ_D x · p[o]"""

    @staticmethod
    def forward(ctx: Any, x: Tensor, padded: Tensor, window: int) -> Tensor:
        ctx.save_for_backward(x, padded)
        ctx.window = window
        return torch.stack([(x * p).sum(-3) for p in views(padded, window)])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        x, padded = ctx.saved_tensors
        return _Mix.apply(grads[0], padded, ctx.window), _Spread.apply(grads[0], x, ctx.window), None


class _Mix(torch.autograd.Function):
    """y = Σ_o w[o] p[o]"""

    @staticmethod
    def forward(ctx: Any, weights: Tensor, padded: Tensor, window: int) -> Tensor:
        ctx.save_for_backward(weights, padded)
        ctx.window = window
        total = _sum_of(*padded.shape[:-2], *weights.shape[-2:], like=padded)
        for w, p in zip(weights.unsqueeze(-3), views(padded, window), strict=True):
            total.addcmul_(w, p)
        return total.to(padded.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        weights, padded = ctx.saved_tensors
        return _Dots.apply(grads[0], padded, ctx.window), _Spread.apply(weights, grads[0], ctx.window), None


class _Spread(torch.autograd.Function):
    """p[o] += w[o] x for every o: where `mix` takes from, this gives back to."""

    @staticmethod
    def forward(ctx: Any, weights: Tensor, x: Tensor, window: int) -> Tensor:
        ctx.save_for_backward(weights, x)
        ctx.window = window
        padded = _sum_of(*x.shape[:-2], x.shape[-2] + window - 1, x.shape[-1] + window - 1, like=x)
        for w, p in zip(weights.unsqueeze(-3), views(padded, window), strict=True):
            p.addcmul_(w, x)
        return padded.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        weights, x = ctx.saved_tensors
        return _Dots.apply(x, grads[0], ctx.window), _Mix.apply(weights, grads[0], ctx.window), None
