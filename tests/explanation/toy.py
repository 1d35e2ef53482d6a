"""Tiny translators that learned a toy language: every word has one translation, and the sentence is turned round."""
import functools
from typing import Any

import torch
from torch import Tensor, nn

from tests.foundations.small import TRANSLATORS

START = 1
FIRST = 2
WORDS = 8
LENGTH = 4
STEPS = {"post-norm": 200, "pre-norm": 150, "recurrent": 300}


def sentences(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Sources of different words (count, LENGTH), and their translations, the last word first."""
    generator = torch.Generator().manual_seed(seed)
    source = torch.stack([torch.randperm(WORDS, generator=generator)[:LENGTH] for _ in range(count)])
    return FIRST + source, FIRST + WORDS + source.flip(1)


def shifted(target: Tensor) -> Tensor:
    """What a decoder reads to produce the target: the start, and all but the last."""
    return torch.cat([torch.full_like(target[:, :1], START), target[:, :-1]], 1)


@functools.cache
def translator(kind: str) -> nn.Module:
    """A network that translates nearly every word; it is trained once in a session."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = dict(hidden=48, maxout=24) if kind == "recurrent" else dict(hidden=64, heads=2)
    network = TRANSLATORS[kind](vocabulary=FIRST + 2 * WORDS, dim=32, **sizes)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2 if kind == "recurrent" else 4e-3)
    for step in range(STEPS[kind]):
        source, target = sentences(32, step)
        loss = nn.functional.cross_entropy(network(source, shifted(target)).flatten(0, 1), target.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    network.eval()
    network.requires_grad_(False)
    return network
