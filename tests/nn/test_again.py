"""What is made again in the backward pass, and a bias that learns: the same gradients, less memory."""
import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.measure.memory import peak_bytes
from vitrail.nn import Attend, Chain, DepthwiseMlp, Gelu, Mlp, RelativeBias, Stack, blocks


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def gradients(module: nn.Module, x: Tensor, low: bool = False) -> list[Tensor]:
    """The answer, and the gradients of a sum of squares: of the input, then of the weights."""
    torch.manual_seed(0)
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=low):
        y = module(x)
    y.float().square().sum().backward()
    return [y.detach(), x.grad, *(p.grad for p in module.parameters())]     # type: ignore[list-item]


def dropped() -> nn.Module:
    return Chain(Gelu(), nn.Dropout(0.5))


@pytest.mark.parametrize("make", [lambda: Mlp(8, 32), lambda: Mlp(8, 32, nn.ReLU6), lambda: Mlp(8, 32, dropped),
                                  lambda: DepthwiseMlp(8, 32)], ids=["gelu", "relu6", "dropout", "depthwise"])
@pytest.mark.parametrize("low", [False, True])
@pytest.mark.parametrize("stacked", [False, True])
def test_gradients_are_those_of_what_was_kept(make: Callable[[], nn.Module], low: bool, stacked: bool,
                                              monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    module = Stack([make(), make()]).train() if stacked else make().train()
    if isinstance(module, Stack):
        module.checkpointing = True
    kept, x = copy.deepcopy(module), noise(2, 4, 4, 8)
    there = gradients(kept, x, low)
    calls, before = [], blocks.checkpoint
    monkeypatch.setattr(blocks, "WIDE", 0)
    monkeypatch.setattr(blocks, "checkpoint", lambda *args, **how: calls.append(args) or before(*args, **how))
    here = gradients(module, x, low)
    assert len(calls) > 2 * stacked and all(torch.equal(a, b) for a, b in zip(there, here, strict=True))


def test_a_wide_mlp_holds_less_in_training_and_nothing_changes_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "WIDE", 1 << 20)
    module, x = nn.Sequential(*(Mlp(64, 1024) for _ in range(6))).train(), noise(2048, 64).requires_grad_()

    def step() -> None:
        module(x).sum().backward()
    spared = peak_bytes(step)
    module.eval()
    assert spared < peak_bytes(step) - 4 * 4 * 2048 * 1024             # those of four of the six, at the peak
    assert torch.equal(module(x), module.train()(x))


def test_a_bias_that_learns_answers_and_learns_as_on_the_fused_kernel() -> None:
    attend, table = Attend(), RelativeBias(4, 2)
    nn.init.normal_(table.table)
    q, k, v = (noise(3, 5, 2, 16, 8, seed=s).double().requires_grad_() for s in range(3))
    table.double()
    found = []
    for scale in (None, 0.3):
        own = attend(q, k, v, table(), scale=scale)
        other = F.scaled_dot_product_attention(q, k, v, attn_mask=table(), scale=scale)
        assert torch.allclose(own, other, atol=1e-12)
        found.append([torch.autograd.grad(out.square().sum(), [q, k, v, table.table]) for out in (own, other)])
    assert all(torch.allclose(a, b, atol=1e-10) for pair in found for a, b in zip(*pair, strict=True))
    fused = attend(q, k, v, table().detach())
    assert torch.allclose(fused, attend(q, k, v, table()), atol=1e-12)
