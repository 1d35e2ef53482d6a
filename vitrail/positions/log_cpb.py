"""Log-spaced continuous bias: a small network names the bias of an offset, so that a window can grow after training.

Liu et al., CVPR 2022, arXiv:2111.09883, section 3.3.
"""
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.core.card import Idea, Paper
from vitrail.core.mechanism import Position
from vitrail.ops.windows import by_size

PAPER = Paper(title="Swin Transformer V2: Scaling Up Capacity and Resolution", arxiv="2111.09883",
              authors="Liu et al.", year=2022, venue="CVPR", code="microsoft/Swin-Transformer", license="MIT",
              ideas=(Idea("positions.relative_bias", "section 3.3", "a bias of each offset, there in a table"),))


class LogBias(nn.Module):
    """16 σ(G(Δy, Δx)) for every two places of a window (h, w): (H, n, n), n = h·w, added to the scores.

    G is 2 -> hidden -> ReLU -> heads without a last bias (equation 3), on sign(Δ) log₂(1 + 8 |Δ| / (s - 1)) / log₂ 8
    (equation 4, as released). `size` is the window s of the first training, which stays the measure of offsets in any
    other window; so what was within reach keeps its bias, and only further offsets are extrapolated.
    """

    def __init__(self, size: int, heads: int, *, hidden: int = 512):
        super().__init__()
        self.size = size
        self.fc1, self.fc2 = nn.Linear(2, hidden), nn.Linear(hidden, heads, bias=False)

    def forward(self, window: tuple[int, int]) -> Tensor:
        # every offset occurs many times: the network and the bound run once for each, before they are handed out
        at = log_offsets(window, self.size, self.fc1.weight)                                    # (M, 2)
        table = 16 * self.fc2(self.fc1(at).relu()).sigmoid()                                    # (M, H)
        # an embedding, not table[index]: the gradient of the latter is not repeatable on two threads
        return F.embedding(offset_index(window, table), table).permute(2, 0, 1).contiguous()


def log_offsets(window: tuple[int, int], size: int, like: Tensor) -> Tensor:
    """((2h - 1)(2w - 1), 2): every offset (Δy, Δx) within a window, log-spaced, about -1 to 1 within size x size."""
    def make() -> Tensor:
        y, x = (torch.arange(1 - n, n, dtype=torch.float32, device=like.device) for n in window)
        d = torch.cartesian_prod(y, x) * (8 / max(size - 1, 1))
        return (d.sign() * d.abs().log1p() / math.log(8)).to(like.dtype)
    return by_size(("log_offsets", *window, size), like, make)


def offset_index(window: tuple[int, int], like: Tensor) -> Tensor:
    """(n, n): which row of `log_offsets` tells query from key."""
    def make() -> Tensor:
        y, x = (torch.arange(n, device=like.device)[:, None] - torch.arange(n, device=like.device) + n - 1
                for n in window)
        index = y[:, None, :, None] * (2 * window[1] - 1) + x[None, :, None, :]                 # (h, w, h, w)
        return index.flatten(2).flatten(0, 1)
    return by_size(("offset_index", *window), like, make)


log_bias = Position(
    build=LogBias, enters="added to the scores, in every layer", learned=True,
    fits="any window, square or not: a network makes the bias from the offset")
