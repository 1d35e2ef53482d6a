"""Linear layers as convolutions: the same numbers to rounding, forth, back and twice back, and only where it pays."""
import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from tests.training.toys import Toy
from vitrail.nn import Mlp
from vitrail.training import products
from vitrail.training.distributed import DistributedContext
from vitrail.training.engine import Engine
from vitrail.training.products import WideLinear, Widened, wider
from vitrail.training.settings import TrainSettings


class Convolutions(TorchDispatchMode):
    """Counts them, forth and back."""

    def __init__(self) -> None:
        super().__init__()
        self.forth = self.back = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):                        # type: ignore[no-untyped-def]
        self.forth += func is torch.ops.aten.convolution.default
        self.back += func is torch.ops.aten.convolution_backward.default
        return func(*args, **(kwargs or {}))


@pytest.fixture(params=[False, True], ids=["worth", "always"])
def always(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Everywhere, and for small products too where asked."""
    monkeypatch.setattr(products, "wider", lambda: True)
    if request.param:
        monkeypatch.setattr(products, "WORTH", 1)
    return bool(request.param)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), requires_grad=True)


def close(found: Tensor, wanted: Tensor) -> bool:
    return found.shape == wanted.shape and bool((found - wanted).abs().max() <= 2e-5 * wanted.abs().max())


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(7,), (1, 7), (5, 7), (2, 5, 7), (2, 3, 4, 5, 7), (0, 7)])
@pytest.mark.parametrize("always", [True], indirect=True)
def test_forth_and_back(shape: tuple[int, ...], bias: bool, always: bool) -> None:
    layer, x = nn.Linear(7, 6, bias=bias), noise(*shape)
    wanted = layer(x)
    given = noise(*wanted.shape, seed=1).detach()
    learned = [x, *layer.parameters()]
    gradients = torch.autograd.grad(wanted, learned, given)
    with Widened(layer), Convolutions() as counted:
        found = layer(x)
        back = torch.autograd.grad(found, learned, given)
    assert counted.forth == counted.back == bool(x.numel())
    if not x.numel():
        assert found.shape == wanted.shape
        return
    assert close(found, wanted) and found.is_contiguous()
    assert all(close(a, b) for a, b in zip(back, gradients, strict=True))


@pytest.mark.parametrize("always", [True], indirect=True)
def test_what_lies_otherwise_in_memory(always: bool) -> None:
    layer = nn.Linear(7, 6)
    layer.weight = nn.Parameter(torch.randn(7, 6).T)
    for x in (noise(7, 5).T, noise(2, 7, 5).mT, noise(5, 14)[:, ::2], noise(1, 7).expand(5, 7)):
        wanted = layer(x)
        with Widened(layer):
            assert close(layer(x), wanted)


@pytest.mark.parametrize("always", [True], indirect=True)
def test_second_derivatives(always: bool) -> None:
    net, x = nn.Sequential(nn.Linear(7, 6), nn.Tanh(), nn.Linear(6, 3)), noise(5, 7)

    def penalty() -> Tensor:
        gradient, = torch.autograd.grad(net(x).square().sum(), x, create_graph=True)
        return torch.autograd.grad(gradient.square().sum(), [x, *net.parameters()])[1]
    wanted = penalty()
    with Widened(net):
        assert close(penalty(), wanted)


def test_only_what_is_worth_it(always: bool) -> None:
    small, large = nn.Linear(64, 64), nn.Linear(256, 512)
    with Widened(nn.Sequential(small, large)), Convolutions() as counted:
        small(noise(32, 64))
        large(noise(128, 256))                              # 2**24 multiply-adds
    assert counted.forth == (2 if always else 1)
    with Widened(nn.Sequential(small, large)), Convolutions() as counted:
        large(noise(127, 256))
        large.double()(noise(128, 256).double())
        small.bfloat16()(noise(32, 64).bfloat16())
    assert counted.forth == (1 if always else 0)
    with Widened(large.float()), Convolutions() as counted, torch.autocast("cpu", torch.bfloat16):
        assert large(noise(128, 256)).dtype == torch.bfloat16
    assert not counted.forth


@pytest.mark.parametrize("always", [True], indirect=True)
def test_what_is_computed_again_is_computed_alike(always: bool) -> None:
    mlp, x = Mlp(8, 16).train(), noise(3, 8)

    def gradients() -> tuple[Tensor, ...]:
        return torch.autograd.grad(checkpoint(mlp, x, use_reentrant=False).square().sum(), [x, *mlp.parameters()])
    wanted = gradients()
    with Widened(mlp), Convolutions() as counted:
        assert all(close(a, b) for a, b in zip(gradients(), wanted, strict=True))
        assert counted.back == 2 and counted.forth >= 3


def test_layers_are_what_they_were_afterwards(always: bool) -> None:
    class Own(nn.Linear):
        pass
    net = nn.Sequential(nn.Linear(3, 3), nn.utils.parametrizations.weight_norm(nn.Linear(3, 3)), Own(3, 3))
    kinds = [type(m) for m in net]
    widened = Widened(net)
    with pytest.raises(ZeroDivisionError), widened:
        assert [type(m) for m in net] == [WideLinear, *kinds[1:]]
        assert list(copy.deepcopy(net).state_dict()) == list(net.state_dict())
        raise ZeroDivisionError
    assert [type(m) for m in net] == kinds
    with Widened(net, wanted=False):
        assert [type(m) for m in net] == kinds


def test_elsewhere_nothing_is_widened(monkeypatch: pytest.MonkeyPatch) -> None:
    def told(capability: str, windows: str = "", **linux: str) -> bool:
        monkeypatch.setattr(products, "processor", lambda field: linux.get(field.replace(" ", "_"), ""))
        monkeypatch.setattr(products.platform, "processor", lambda: windows)
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
        wider.cache_clear()
        return wider()
    whole = torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()
    amd, intel = "AuthenticAMD", "GenuineIntel"
    try:
        assert told("AVX512", vendor_id=amd, cpu_family="26") == whole
        assert told("AVX512", "AMD64 Family 26 Model 68 Stepping 0, AuthenticAMD") == whole
        assert not told("AVX2", vendor_id=amd, cpu_family="26")
        assert not told("AVX512", vendor_id=amd, cpu_family="25")
        assert not told("AVX512", vendor_id=intel, cpu_family="26")
        assert not told("AVX512", "Intel64 Family 26 Model 1 Stepping 0, GenuineIntel") and not told("DEFAULT", "arm")
    finally:
        wider.cache_clear()


@pytest.mark.parametrize("always", [True], indirect=True)
@pytest.mark.parametrize("accumulate", [1, 2])
def test_training_steps(accumulate: int, always: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The same losses and gradients with and without, the same weights bit for bit each time it is done."""
    settings = TrainSettings(out=str(tmp_path), epochs=1, batch=8, accumulate=accumulate, clip=1.0)

    def run(wide: bool, precision: str = "fp32") -> tuple[list[float], list[Tensor], int]:
        monkeypatch.setattr(products, "wider", lambda: wide)
        task = Toy(drop=0.0)
        with Convolutions() as counted:
            place = DistributedContext(device=torch.device("cpu"))
            engine = Engine(task, replace(settings, precision=precision), place)
            batch = next(iter(task.batches(0, 1).epoch(0)))
            losses = []
            for step in range(4):
                outcome = engine.train(batch, step, 1e-3, lambda: False)
                losses += [outcome.losses["loss"], outcome.norm]
            engine.evaluate(4, lambda: False)
        assert not any(isinstance(m, WideLinear) for m in engine.model.modules())
        return losses, [p.detach().clone() for p in engine.model.parameters()], counted.forth
    plain, _, few = run(False)
    found, weights, many = run(True)
    assert found == pytest.approx(plain, rel=1e-4) and many > few
    assert all(torch.equal(a, b) for a, b in zip(weights, run(True)[1], strict=True))
    assert run(True, "bf16")[2] == run(False, "bf16")[2]
