"""Conditional positions: a depthwise convolution lets each token feel its neighbours, and zeros beyond the edge.

Chu et al., ICLR 2023, arXiv:2102.10882.
"""
import torch
from torch import Tensor, nn

from vitrail.core.card import Idea, Paper
from vitrail.core.mechanism import Position
from vitrail.nn import Conv

PAPER = Paper(title="Conditional Positional Encodings for Vision Transformers", arxiv="2102.10882",
              authors="Chu et al.", year=2023, venue="ICLR", code="Meituan-AutoML/Twins", license="Apache-2.0",
              ideas=(Idea("positions.learned", "introduction", "positions that it frees of one size"),
                     Idea("cnn_positions", "section 3", "zeros at the border tell where a place is")))


class ConditionalPosition(nn.Module):
    """x + depthwise 3 x 3 convolution of x (PEG): (B, P + h·w, C) -> same, past P tokens that have no place.

    Stands after the first block. Inside the map it moves with its content; only the zeros that pad the border tell
    where a place is, and further layers carry that inwards.
    """

    def __init__(self, dim: int, *, prefix: int = 0):
        super().__init__()
        self.prefix, self.conv = prefix, Conv(dim, dim, 3, padding=1, groups=dim)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        head, tail = x[:, :self.prefix], x[:, self.prefix:]
        tail = tail + self.conv(tail.unflatten(1, grid)).flatten(1, 2)          # (B, N, C)
        return torch.cat([head, tail], 1) if self.prefix else tail


conditional = Position(
    build=ConditionalPosition, enters="added to the tokens, after the first block", learned=True,
    fits="any grid: it is a convolution")
