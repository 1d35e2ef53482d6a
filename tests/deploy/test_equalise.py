"""Channels that are far larger than others no longer keep layers out of int8, and no answer moves by making them so."""
import pytest
import torch
from torch import Tensor, nn

import vitrail
from tests.contracts.small import build
from tests.deploy.test_optimize import apart, noise
from vitrail.deploy.cpu import compile as compiler
from vitrail.deploy.cpu import equalise, int8
from vitrail.deploy.cpu.graph import fold_constants, simplify, traced
from vitrail.deploy.structure import Flat
from vitrail.tasks.classification.model import Classifier

needed = pytest.mark.skipif(not int8.available(), reason="this machine has no products in int8")


def with_outliers(name: str) -> Classifier:
    """One channel of every layer norm is a thousand times as large, and the layers after it read so much less of it."""
    model = build(name)
    with torch.no_grad():
        for called, part in model.named_modules():
            if called.endswith((".mix.norm", ".mlp.norm")):
                part.weight[3] *= 1000
                part.bias[3] *= 1000
            elif called.endswith((".qkv.proj", ".fc1")):
                part.weight[:, 3] /= 1000
    return model.eval()


class Net(nn.Module):
    """A norm that a linear layer alone reads, and one that a sum reads as well."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norms = nn.ModuleList([nn.LayerNorm(12), nn.LayerNorm(12)])
        self.linears = nn.ModuleList([nn.Linear(12, 12), nn.Linear(12, 12)])

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(2).repeat(1, 4, 1)                        # (B, 12, 12)
        x = x + self.linears[0](self.norms[0](x).transpose(0, 1)).transpose(0, 1)
        y = self.norms[1](x)
        return (y + self.linears[1](y)).mean(1)


def test_only_norms_that_linear_layers_alone_read() -> None:
    image, model = noise(2, 3, 2, 6), Net().eval().requires_grad_(False)
    graph, constants = traced(model, image)
    (norm, readers), = equalise.groups(graph, constants).values()
    assert constants.name(norm.args[2]) == "norms.0.weight" and len(readers) == 1       # type: ignore[arg-type]
    found = equalise.factors(graph, constants, [noise(3, 3, 2, 6, seed=1)])
    factor, = found.values()
    assert factor.shape == (12,) and abs(float(factor.log().mean())) < 1e-5 and factor.std() > 0.05
    assert equalise.apply(graph, constants, found) == 1
    assert (compiler.module(graph, constants)(image) - model(image)).abs().max() <= 1e-5


@pytest.mark.parametrize("name", ["deit_ti16", "swin_t"])
def test_the_answers_stay(name: str) -> None:
    model, image = with_outliers(name), noise(2, 3, 64, 96)
    graph, constants = traced(Flat(model).eval(), image)
    fold_constants(graph, constants)
    simplify(graph, constants)
    found = equalise.factors(graph, constants, [image])
    large = [factor for factor in found.values() if factor[3] > 100 * factor.median()]
    assert len(large) > 2
    assert equalise.apply(graph, constants, found) == len(found)
    with torch.inference_mode():
        there, here = model(image), compiler.module(graph, constants)(image)
    assert (there - here).abs().max() <= 1e-5 * (there.max() - there.min())


@needed
def test_layers_with_such_channels_are_done_in_int8(monkeypatch: pytest.MonkeyPatch) -> None:
    model, shown = with_outliers("deit_ti16"), [noise(8, 3, 64, 96)]
    made = vitrail.optimize(model, noise(2, 3, 64, 96), precision="int8", calibration=shown)
    assert not made.report.stayed and made.report.rewritten["norms with channels made alike"] > 2
    assert apart(model, made, noise(2, 3, 64, 96, seed=1)) <= 0.05
    first = dict(made.report.rewritten)
    assert apart(model, made, noise(3, 3, 64, 96, seed=2)) <= 0.05              # another plan, by the same images
    assert made.report.rewritten["norms with channels made alike"] == first["norms with channels made alike"]
    assert made.report.rewritten["linear in int8"] == first["linear in int8"]
    monkeypatch.setattr(equalise, "factors", lambda *_: {})
    plain = vitrail.optimize(model, noise(2, 3, 64, 96), precision="int8", calibration=shown)
    assert len(plain.report.stayed) > 2
