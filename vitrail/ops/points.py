"""Neighbours of points in space, and what lies at them."""
import torch
import torch.nn.functional as F
from torch import Tensor

_DISTANCES = 1 << 19        # how many to hold at a time


def nearest_points(xyz: Tensor, count: int) -> Tensor:
    """The `count` points nearest to each point of (B, N, A), itself among them, the nearest first: (B, N, K).

    K is N where there are fewer points. The distances are held for a part of the points at a time, so memory grows
    with N, and are differences, not products, so that near points are not confused. Of points equally far at the
    end of the list any may be taken, in every call the same.
    """
    B, N, _ = xyz.shape
    with torch.no_grad():
        # an exported program holds for any number of samples, and so for no number of parts
        step = N if torch.compiler.is_compiling() else max(1, _DISTANCES // (B * N))
        far = (torch.cdist(part, xyz, compute_mode="donot_use_mm_for_euclid_dist") for part in xyz.split(step, 1))
        return torch.cat([d.topk(min(count, N), largest=False).indices for d in far], 1)


def points_at(x: Tensor, index: Tensor) -> Tensor:
    """The rows of x (B, N, C) that index (B, M, K) names: (B, M, K, C)."""
    B, N, _ = x.shape
    first = torch.arange(0, B * N, N, device=index.device).view(B, 1, 1)
    return F.embedding(index + first, x.flatten(0, 1))
