"""Four codes that come to mind before sines and cosines do, and what is wrong with each.

No paper proposes them. They are the steps of thought that lead to section 3.5 of Vaswani et al., NeurIPS 2017,
arXiv:1706.03762: each mends what was wrong with the one before. All are called as `sinusoids(length, dim)` is, and give
(N, dim) in float64.
"""
import math

import torch
from torch import Tensor

from vitrail.core.card import Paper
from vitrail.core.errors import ModelError
from vitrail.core.mechanism import Position

PAPER = Paper(title="Attention Is All You Need", arxiv="1706.03762", authors="Vaswani et al.", year=2017,
              venue="NeurIPS", code="tensorflow/tensor2tensor", license="Apache-2.0")


def integers(length: int, dim: int) -> Tensor:
    """p in every channel: (N, dim)."""
    return torch.arange(length, dtype=torch.float64)[:, None].repeat(1, dim)


def normalised(length: int, dim: int) -> Tensor:
    """p / (length - 1) in every channel, from 0 to 1: (N, dim). A single place is 0."""
    return integers(length, dim) / max(length - 1, 1)


def bits(length: int, dim: int) -> Tensor:
    """p as a binary number, the lowest digit first: (N, dim). Raises ModelError where dim digits do not suffice."""
    if length > 2 ** dim:
        raise ModelError(f"{dim} binary digits tell {2 ** dim} places apart, not {length}: "
                         f"give at least {(length - 1).bit_length()} channels")
    return (torch.arange(length)[:, None] >> torch.arange(dim) & 1).double()


def sines(length: int, dim: int) -> Tensor:
    """sin(2π p / 2^(i + 2)): a digit's flicker made smooth, at half its pace: (N, dim).

    At the digit's own pace, 2^(i + 1), the fastest wave would be zero at every whole place.
    """
    period = 2.0 ** torch.arange(2, dim + 2, dtype=torch.float64)
    return (2 * math.pi * torch.arange(length, dtype=torch.float64)[:, None] / period).sin()


integer_position = Position(
    build=integers, enters="added to the tokens, once", fits="any length, with ever larger values", learned=False,
    lesson="values grow without end: those of far places drown the token they are added to, and at a length that "
           "training never showed every value is new")
normalised_position = Position(
    build=normalised, enters="added to the tokens, once", fits="any length, with other steps", learned=False,
    lesson="the step between neighbours depends on the length: place 3 of 11 is 0.3, place 3 of 6 is 0.6, so one "
           "place has many codes, and one code many places")
binary_position = Position(
    build=bits, enters="added to the tokens, once", fits="up to 2^dim places", learned=False,
    lesson="neighbours are unequally far apart: from 0 to 1 flips one digit, from 1 to 2 two, from 3 to 4 three; and "
           "there is nothing between two places, for the code jumps")
sine_only_position = Position(
    build=sines, enters="added to the tokens, once", fits="up to 2^(dim + 1) places, then it repeats", learned=False,
    lesson="the code runs in a closed loop, whose last place lies beside the first; and no matrix T(d) takes every "
           "PE(p) to PE(p + d), because the shift of a sine needs the cosine that is missing")
