"""No mechanism holds what its paper avoids: the peak of memory grows with the tokens as declared, and no faster."""
import math

import pytest
import torch

from tests.attention.test_contract import MIXERS, build, tokens
from vitrail.core.catalogue import mechanism_of
from vitrail.measure.memory import peak_bytes

SIDES = (24, 48)        # 576 and 2,304 tokens: four times as many
DIM, HEADS = 16, 2      # narrow, so that a map of N x N would stand out: it is 72 times as wide as the tokens


@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize("name", MIXERS)
def test_memory_grows_as_declared(name: str, training: bool) -> None:
    def peak(side: int) -> int:
        mixer = build(name, dim=DIM, heads=HEADS, grid=(side, side)).train(training)
        x = tokens(name, 1, (side, side), DIM)

        def step() -> None:
            mixer.zero_grad()
            with torch.set_grad_enabled(training):
                y = mixer(x)
                if training:
                    y.sum().backward()
        return peak_bytes(step)
    peaks = [peak(side) for side in SIDES]
    grown = math.log(peaks[1] / peaks[0]) / math.log(SIDES[1] ** 2 / SIDES[0] ** 2)
    assert grown < mechanism_of(name).memory.exponent + 0.1, f"N^{grown:.2f}: {peaks}"
