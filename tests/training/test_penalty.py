"""R1: a second derivative through attention."""
import pytest
import torch
from torch import Tensor, nn

import vitrail
from vitrail.nn import Attend, second_derivatives
from vitrail.training.penalty import gradient_penalty


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(params=["vit_ti16", "swin_t"])
def model(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    arguments = {"vit_ti16": dict(patch=8, dim=16, heads=2, depth=2, image=16),
                 "swin_t": dict(dim=8, depths=(1, 1), heads=(1, 2), window=2)}[request.param]
    network = vitrail.create_model(request.param, classes=2, **arguments).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0, 0.3)
    return network


def test_the_penalty_is_the_squared_norm_of_the_gradient(model: nn.Module) -> None:
    images = noise(2, 3, 16, 16)
    with torch.no_grad():
        direction, step = noise(2, 3, 16, 16, seed=1), 1e-5
        slope = (model(images + step * direction).sum(1) - model(images - step * direction).sum(1)) / (2 * step)
    given = images.clone().requires_grad_()
    gradient, = torch.autograd.grad(model(given).sum(), given)
    torch.testing.assert_close((gradient * direction).flatten(1).sum(1), slope, rtol=1e-5, atol=1e-8)
    torch.testing.assert_close(gradient_penalty(model, images), gradient.square().flatten(1).sum(1).mean())


def test_its_own_gradient_is_that_of_differences(model: nn.Module) -> None:
    """Along one direction of all weights, as central differences have it."""
    images = noise(2, 3, 16, 16)
    parameters = list(model.parameters())
    gradients = torch.autograd.grad(gradient_penalty(model, images), parameters, allow_unused=True)
    directions = [noise(*p.shape, seed=n) for n, p in enumerate(parameters)]
    along = sum(float((g * d).sum()) for g, d in zip(gradients, directions, strict=True) if g is not None)
    values, step = [], 1e-6
    for sign in (1, -1):
        with torch.no_grad():
            for parameter, direction in zip(parameters, directions, strict=True):
                parameter.add_(direction, alpha=sign * step)
        values.append(gradient_penalty(model, images).item())
        with torch.no_grad():
            for parameter, direction in zip(parameters, directions, strict=True):
                parameter.sub_(direction, alpha=sign * step)
    assert along == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-4) and abs(along) > 1e-6


def test_outside_nothing_changes(model: nn.Module) -> None:
    images = noise(2, 3, 16, 16)
    with torch.no_grad():
        before = model(images)
        with second_derivatives():
            assert Attend.written_out
            torch.testing.assert_close(model(images), before)
        assert not Attend.written_out and torch.equal(model(images), before)
    with pytest.raises(ValueError, match="inside"), second_derivatives():
        raise ValueError("inside")
    assert not Attend.written_out
