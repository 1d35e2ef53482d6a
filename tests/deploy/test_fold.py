"""Folding: the same answers with fewer parts, and hands off where it would not be exact."""
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tests.contracts.small import STRUCTURES, build
from vitrail.core.errors import ExportError
from vitrail.deploy import fold
from vitrail.deploy.fold import folded
from vitrail.nn import BatchNorm, Chain, Conv, Mlp, Residual, Scale, conv_norm
from vitrail.testing.noise import fill_


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def left(model: nn.Module) -> int:
    return sum(isinstance(part, _BatchNorm | Scale) for part in model.modules())


@pytest.mark.parametrize("name", STRUCTURES)
def test_every_structure_answers_alike(name: str) -> None:
    """In double precision: noise for weights grows from block to block, up to 1e23 in a ResNet of lambda layers."""
    model = build(name).double().train()
    fill_(model)                                            # statistics and gains too
    before = {k: v.clone() for k, v in model.state_dict().items()}
    made = folded(model, noise(2, 3, 64, 96).double())
    assert model.training and not made.training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items()), "the model itself is left alone"
    assert not any(part.training for part in made.modules()) and not any(p.requires_grad for p in made.parameters())
    image = noise(3, 3, 96, 64, seed=1).double()            # other images than those it was checked on, at another size
    with torch.inference_mode():
        there, here = model.eval()(image), made(image)
    assert (there - here).abs().max() <= 1e-10 * (there.max() - there.min())


@pytest.mark.parametrize(("name", "norms"), [("resnet18", 0), ("ghostnet_050", 0), ("coatnet_0", 0)])
def test_nothing_is_left_of_the_norms_of_convolutions(name: str, norms: int) -> None:
    model = build(name)
    assert left(model) > 10 and left(folded(model, noise(1, 3, 64, 64))) == norms


class Net(nn.Module):
    """Images pass through `part` as a map; the answer is their mean and what `last` makes of it."""

    def __init__(self, part: nn.Module):
        super().__init__()
        self.part, self.last = part, nn.Linear(6, 4)
        fill_(self)

    def forward(self, image: Tensor) -> Tensor:
        return self.last(self.part(image.permute(0, 2, 3, 1)).mean((1, 2)))


class Twice(nn.Module):
    """What a convolution answers goes into its norm and past it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = Conv(3, 6, 1), BatchNorm(6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return x + self.norm(x)


class Again(nn.Module):
    """One convolution is called twice, and one norm behind it once."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.conv, self.norm = Conv(3, 6, 1), Conv(6, 6, 1), BatchNorm(6)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(self.conv(self.first(x)).relu()))


def residual(dim: int) -> Residual:
    return Residual(Mlp(dim, 8), nn.LayerNorm(dim), scale=Scale(dim, 0.1))


@pytest.mark.parametrize(("part", "expected"), [
    (conv_norm(3, 6, 3, 2), 0),
    (Chain(conv_norm(3, 6, 3, groups=3), Scale(6, 0.5)), 0),                        # a gain behind a norm
    (Chain(Conv(3, 6, 3, padding=1), nn.ReLU(), BatchNorm(6), Conv(6, 6, 3)), 0),   # before a layer without padding
    (Chain(Conv(3, 6, 3, padding=1), nn.ReLU(), BatchNorm(6), Conv(6, 6, 3, padding=1)), 1),    # its edge is padded
    (Chain(Conv(3, 6, 1), nn.ReLU(), BatchNorm(6, affine=False), nn.Linear(6, 6)), 0),
    (Chain(Conv(3, 6, 1), residual(6)), 0),
    (Chain(Conv(3, 6, 1), nn.ReLU(), BatchNorm(6), nn.ReLU()), 1),
    (Chain(Conv(3, 6, 1), BatchNorm(6, track_running_stats=False)), 1),             # it norms by the images themselves
    (Twice(), 1), (Again(), 1)])
def test_only_what_is_exact_is_folded(part: nn.Module, expected: int) -> None:
    model = Net(part).eval()
    made = folded(model, noise(2, 3, 8, 9))
    assert left(made) == expected
    torch.testing.assert_close(made(noise(1, 3, 7, 5)), model(noise(1, 3, 7, 5)))


def test_tensors_that_two_layers_share_are_left_alone() -> None:
    one, other = Conv(3, 3, 1), Conv(3, 3, 1)
    other.weight = one.weight
    model = Net(Chain(one, BatchNorm(3), nn.ReLU(), other, nn.ReLU(), Conv(3, 6, 1))).eval()
    assert left(folded(model, noise(1, 3, 8, 8))) == 1


def test_a_copy_that_answers_otherwise_is_not_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    model, whole = build("resnet18"), fold._affine

    def wrong(part: nn.Module) -> tuple[Tensor, Tensor]:
        gain, shift = whole(part)
        return gain * 1.01, shift
    monkeypatch.setattr(fold, "_affine", wrong)
    with pytest.raises(ExportError, match="does not answer like the model"):
        folded(model, noise(1, 3, 64, 64))


@pytest.mark.parametrize(("model", "image", "says"), [
    (Net(Conv(3, 6, 1)), None, "says its own size"), (Net(Conv(3, 6, 1)), noise(1, 4, 8, 8), "cannot be folded")])
def test_what_cannot_be_run_is_refused(model: Any, image: Tensor | None, says: str) -> None:
    with pytest.raises(ExportError, match=says):
        folded(model, image)
