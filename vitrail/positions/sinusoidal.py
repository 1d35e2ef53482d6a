"""Sinusoidal positions: each pair of channels is a clock hand, and to step on is to turn all hands.

Vaswani et al., NeurIPS 2017, arXiv:1706.03762, section 3.5.
"""
import torch
from torch import Tensor, nn

from vitrail.core.card import Idea, Paper
from vitrail.core.errors import ModelError
from vitrail.core.mechanism import Position
from vitrail.ops.windows import by_size

PAPER = Paper(title="Attention Is All You Need", arxiv="1706.03762", authors="Vaswani et al.", year=2017,
              venue="NeurIPS", code="tensorflow/tensor2tensor", license="Apache-2.0",
              ideas=(Idea("conv_s2s", "section 3.5", "positions added to the tokens, there learned"),))
TEMPERATURE = 10_000.0


def frequencies(dim: int, *, temperature: float = TEMPERATURE) -> Tensor:
    """ω_i = temperature^(-2i / dim), from 1 downwards: (dim / 2) in float64. Raises ModelError where dim is odd."""
    if dim < 2 or dim % 2:
        raise ModelError(f"{dim} channels hold no pairs of a sine and a cosine: give an even number")
    return temperature ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)


def waves(at: Tensor, dim: int, *, temperature: float = TEMPERATURE) -> Tensor:
    """sin(ω_i at), cos(ω_i at) side by side, pair by pair: (*B) -> (*B, dim), in the dtype of `at`."""
    angle = at[..., None] * frequencies(dim, temperature=temperature).to(at)
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(-2)


def sinusoids(length: int, dim: int, *, temperature: float = TEMPERATURE) -> Tensor:
    """The code of places 0 to length - 1: (N, dim) in float64."""
    return waves(torch.arange(length, dtype=torch.float64), dim, temperature=temperature)


def shift(d: float, dim: int, *, temperature: float = TEMPERATURE) -> Tensor:
    """T(d), which moves any place p by d: PE(p + d) = PE(p) T(d), with PE(p) a row. (dim, dim) in float64.

    A rotation: pair by pair the addition theorems, [[cos ω_i d, -sin ω_i d], [sin ω_i d, cos ω_i d]].
    """
    angle = frequencies(dim, temperature=temperature) * d
    sin, cos = angle.sin(), angle.cos()
    return torch.block_diag(*torch.stack([cos, -sin, sin, cos], -1).unflatten(-1, (2, 2)))


class Sinusoidal(nn.Module):
    """x + PE: (B, N, C) -> same, for any N. `start` is the place of the first token, for decoding step by step.

    The sines and cosines alternate, as in the paper; tensor2tensor and Marian put all sines first.
    """

    def __init__(self, dim: int, *, temperature: float = TEMPERATURE):
        super().__init__()
        self.dim, self.temperature = dim, temperature
        frequencies(dim)                                                # says now what is wrong with dim

    def forward(self, x: Tensor, start: int = 0) -> Tensor:             # (B, N, C)
        end = start + x.shape[1]
        rows = -(-end // 256) * 256                                     # one table serves many lengths
        table = by_size(("sinusoids", rows, self.dim, self.temperature), x,
                        lambda: sinusoids(rows, self.dim, temperature=self.temperature).to(x))
        return x + table[start:end]


sinusoidal = Position(
    build=Sinusoidal, enters="added to the tokens, once", learned=False,
    fits="any length: the table is a formula, and a step of d is one rotation wherever it begins")
