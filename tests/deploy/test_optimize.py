"""Optimised models answer like the plain ones, whatever they are made of."""

import pytest
import torch
from torch import Tensor

import vitrail
from tests.contracts.small import STRUCTURES, build


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", STRUCTURES)
def test_every_structure_answers_alike(name: str) -> None:
    model = build(name)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    made = vitrail.optimize(model, noise(2, 3, 64, 96))
    assert not made.report.left, made.report.left
    assert made.report.rewritten["linear"] + made.report.rewritten["convolution"] > 3
    with torch.inference_mode():
        for shape in ((2, 3, 64, 96), (1, 3, 64, 96)):                  # another batch gets a plan of its own
            image = noise(*shape, seed=1)
            there, here = model(image), made(image)
            assert (there - here).abs().max() <= 1e-4 * (there.max() - there.min())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items()), "the model itself is left alone"
