"""Numbers rounded to eight bits, and the ranges that they are rounded in."""
import pytest
import torch

from tests.deploy.test_optimize import noise
from vitrail.deploy.cpu import int8, ranges
from vitrail.deploy.cpu.graph import traced

needed = pytest.mark.skipif(not int8.available(), reason="this machine has no products in int8")


@needed
@pytest.mark.parametrize(("scale", "zero"), [(0.02, 128), (1e-3, 0), (0.5, 255)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rounding_to_whole_numbers(scale: float, zero: int, dtype: torch.dtype) -> None:
    x = noise(3, 5, 7).transpose(0, 1).to(dtype)
    found = int8.quantise(x, scale, zero)
    exact = (x.double() / scale).add(zero)
    assert found.dtype == torch.uint8 and found.shape == x.shape and not found.is_quantized
    assert ((found.double() - exact.clamp(0, 255)).abs() <= 0.5 + 1e-3).all()


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_large_tensors_are_rounded_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    x = noise(5, 16, 16).bfloat16()
    monkeypatch.setattr(int8.norm, "available", lambda dtype: False)
    whole = int8.quantise(x, 0.02, 128)
    monkeypatch.setattr(int8, "LARGE", 64)
    assert torch.equal(int8.quantise(x, 0.02, 128), whole)


def test_the_range_leaves_out_what_hardly_occurs() -> None:
    """A few numbers are ten times as large, and nobody reads them."""
    x = noise(8, 3, 40, 60)
    model = torch.nn.Sequential(torch.nn.Flatten(2), torch.nn.Unflatten(2, (100, 24)), torch.nn.Linear(24, 24))
    with torch.no_grad():
        model[2].weight[:, 7] = 0
    lone = x.clone()
    lone.view(8, 3, 100, 24)[::2, 1, 50, 7] = 40.0
    for image, whole in ((x, True), (lone, False)):
        graph, constants = traced(model, image)
        (found,) = ranges.observed(graph, constants, [image]).values()
        wide = float(image.max() - image.min()) / 255
        assert (found.scale == pytest.approx(wide)) == whole and found.ratio > (35 if whole else 20)
