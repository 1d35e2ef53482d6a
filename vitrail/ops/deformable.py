"""Weighted sums of bilinear samples, the core of deformable attention (Zhu et al., arXiv:2010.04159, equation 3).

A sample is a weighted sum of four rows of a map, and a query's answer a weighted sum of samples: together a bag of
4 P rows, each with the product of both weights. `embedding_bag` adds them up where they lie, so no sample is ever
stored. Its own backward pass is slow on a processor; the one here sums each row's gradient as a bag too.
"""
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from vitrail.ops.windows import by_size

_GATHERED = 1 << 27                 # numbers to gather at a time, where they must be


def sample_sum(maps: Sequence[Tensor], places: Tensor, weights: Tensor) -> Tensor:
    """Σ over levels l and points p of weights[l, p] · maps[l] at places[l, p], for each query and head: (B, Q, H, D).

    maps: L maps (B, h, w, H, D), of any sizes. places: (B, Q, H, L, P, 2), x before y, as parts of a map's width
    and height: (0, 0) is the map's upper left corner and (0.5/w, 0.5/h) the middle of its first pixel. weights:
    (B, Q, H, L, P). A sample is bilinear between the four nearest pixels; beyond the map there are zeros.

    Coordinates keep their own precision, the maps' kind of number is the answer's. Gradients reach all three.
    """
    total: Tensor | None = None
    for level, at, weight in zip(maps, places.unbind(3), weights.unbind(3), strict=True):
        part = _SampleSum.apply(level, at, weight)                                  # (S, D)
        total = part if total is None else total.add_(part)
    if total is None:
        raise ValueError("there is no map to sample")
    return total.unflatten(0, places.shape[:3])


def centres(sizes: Sequence[tuple[int, int]], like: Tensor) -> Tensor:
    """The middles of the pixels of maps of these sizes (h, w), one map after another, as `places`: (Q, 2).

    On the device of `like`, with at least the precision of float32.
    """
    def make() -> Tensor:
        def middles(size: int) -> Tensor:
            return (torch.arange(size, dtype=kind, device=like.device) + 0.5) / size
        kind = torch.promote_types(like.dtype, torch.float32)
        return torch.cat([torch.cartesian_prod(middles(h), middles(w)).flip(-1) for h, w in sizes])
    return by_size(("centres", *sizes), like, make)


class _Corners:
    """The four pixels around each place: which rows they are, and how much of each a sample takes along either axis.

    A pixel c takes part by max(0, 1 - |x - c|). Taken at any two neighbours within the map that include those around
    x, these hats are the bilinear weights with zeros beyond the map: no pixel has to be masked.
    """

    def __init__(self, level: Tensor, places: Tensor):
        B, h, w, H, _ = level.shape
        x, y = places.unbind(-1)                                                    # (B, Q, H, P)
        x, y = x * w - 0.5, y * h - 0.5
        # clamped as whole numbers, so that a place that is not a number names a pixel too; its weights stay NaN
        left, top = (at.floor().int().clamp(0, max(size - 2, 0)) for at, size in ((x, w), (y, h)))
        self.x, self.y = (x - left, x - left - 1), (y - top, y - top - 1)           # from either pixel
        self.wx, self.wy = _hats(self.x, w), _hats(self.y, h)
        # an exported program holds for any number of samples; half as wide is faster, while it suffices
        narrow = not torch.compiler.is_compiling() and max(B * h * w * H, 4 * x.numel()) < 2**31
        kind = torch.int32 if narrow else torch.int64
        image = torch.arange(0, B * h * w * H, h * w * H, dtype=kind, device=level.device).view(B, 1, 1, 1)
        head = torch.arange(H, dtype=kind, device=level.device).view(H, 1)
        self.first = (top * w + left) * H + head + image                            # (B, Q, H, P)
        right, below = H * (w > 1), w * H * (h > 1)
        self.steps = (0, right, below, below + right)

    def rows(self) -> Tensor:
        """(S, 4 P) for the S = B·Q·H bags: indices into the map's B·h·w·H rows."""
        return (self.first[..., None] + self.first.new_tensor(self.steps)).flatten(-2).flatten(0, 2)

    def weights(self, weights: Tensor, like: Tensor) -> Tensor:
        """(S, 4 P): each row's part in its bag, in the precision of `like`."""
        parts = self.wx[0].new_empty(*self.first.shape, 4)                          # three times as fast as a stack
        for j, wy in enumerate(wy * weights for wy in self.wy):
            for i, wx in enumerate(self.wx):
                parts[..., 2 * j + i] = wy * wx
        return parts.flatten(-2).flatten(0, 2).to(like.dtype)


def _hats(distances: tuple[Tensor, Tensor], size: int) -> tuple[Tensor, Tensor]:
    """max(0, 1 - |d|); an axis of one pixel has no second one."""
    first, second = ((1 - d.abs()).relu() for d in distances)
    return first, second if size > 1 else torch.zeros_like(second)


def _slopes(distances: tuple[Tensor, Tensor], size: int) -> tuple[Tensor, Tensor]:
    """The derivatives of the hats. At their bends, where offsets are born, those to the right."""
    first, second = ((d.floor() == -1).to(d.dtype) - (d.floor() == 0).to(d.dtype) for d in distances)
    return first, second if size > 1 else torch.zeros_like(second)


class _SampleSum(torch.autograd.Function):
    """One level of `sample_sum`, a row a bag: (B·Q·H, D). Nothing but the inputs is kept for the backward pass."""

    @staticmethod
    def forward(ctx: FunctionCtx, level: Tensor, places: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(level, places, weights)
        corners = _Corners(level, places)
        return F.embedding_bag(corners.rows(), level.flatten(0, 3), mode="sum",
                               per_sample_weights=corners.weights(weights, level))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        level, places, weights = ctx.saved_tensors
        h, w = level.shape[1:3]
        corners = _Corners(level, places)
        rows = corners.rows()
        to_level = to_places = to_weights = None
        if ctx.needs_input_grad[0]:
            to_level = _spread(grad, corners, corners.weights(weights, level), level)
        if any(ctx.needs_input_grad[1:]):
            seen = _dots(level.flatten(0, 3), rows, grad).to(places.dtype).view(*weights.shape, 2, 2)
            (wx, wx_), (wy, wy_) = corners.wx, corners.wy
            upper, lower = (wx * seen[..., i, 0] + wx_ * seen[..., i, 1] for i in (0, 1))
            to_weights = (wy * upper + wy_ * lower).to(weights.dtype)
            if ctx.needs_input_grad[1]:
                (dx, dx_), (dy, dy_) = _slopes(corners.x, w), _slopes(corners.y, h)
                across = wy * (dx * seen[..., 0, 0] + dx_ * seen[..., 0, 1])
                across += wy_ * (dx * seen[..., 1, 0] + dx_ * seen[..., 1, 1])
                down = dy * upper + dy_ * lower
                to_places = torch.stack([across * weights * w, down * weights * h], -1).to(places.dtype)
        return to_level, to_places, to_weights


def _spread(grad: Tensor, corners: _Corners, weights: Tensor, level: Tensor) -> Tensor:
    """The gradient of a map's rows: for each row the weighted sum of the gradients (S, D) of the bags it was in.

    Sorted by their first corners, the places make a bag for each row, with no two threads at one row. The other corners
    stand a fixed number of rows behind, so the sums of their parts are added so far behind.
    """
    count, points = level.shape[:4].numel(), corners.first.shape[-1]
    first, order = corners.first.flatten().sort()
    # where the bag of each row begins
    begins = torch.bincount(first, minlength=count).cumsum(0).roll(1)
    begins[0] = 0
    bags = order.div(points, rounding_mode="floor")
    parts = weights.view(-1, 4).index_select(0, order)                              # (S P, 4)
    total: Tensor | None = None
    for part, step in zip(parts.unbind(1), corners.steps, strict=True):
        found = F.embedding_bag(bags, grad, begins, mode="sum", per_sample_weights=part.contiguous())
        if total is None:
            total = found
        else:
            total[step:] += found[:count - step]
    assert total is not None
    return total.view(level.shape)


def _dots(table: Tensor, rows: Tensor, grad: Tensor) -> Tensor:
    """(S, K): the products of each bag's gradient (S, D) with the bag's rows."""
    if grad.device.type == "cpu":                                                   # where they lie, nothing gathered
        bags, begins = (torch.arange(0, end, step, dtype=rows.dtype) for end, step in
                        ((len(rows), 1), (rows.numel(), rows.shape[1])))
        return torch.ops.aten._embedding_bag_per_sample_weights_backward(
            grad, table, rows.flatten(), begins, bags.repeat_interleave(rows.shape[1]), 0).view(rows.shape)
    step = max(1, _GATHERED // (rows.shape[1] * grad.shape[1]))
    if torch.compiler.is_compiling():
        step = len(rows)                                                            # a compiler gathers nothing
    pieces = zip(rows.split(step), grad.split(step), strict=True)
    return torch.cat([F.embedding(at, table).mul_(g[:, None]).sum(-1) for at, g in pieces])
