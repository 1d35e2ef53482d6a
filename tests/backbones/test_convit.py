"""ConViT: a head is born a convolution, the gate opens it, and the class token joins late."""
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.backbones.made import noise
from vitrail.backbones.convit import (ConViT, convit_b, convit_b_plus, convit_s, convit_s_plus, convit_ti,
                                       convit_ti_plus)
from vitrail.core.errors import ModelError
from vitrail.nn import DropPath, Shown
from vitrail.ops.positions import resample_positions
from vitrail.positions.gated import GatedPositional, as_convolution


def small(**changes: int | float | tuple[int, int]) -> Any:
    torch.manual_seed(0)
    settings = {"image": 64, "dim": 36, "depth": 3, "local": 2, "heads": 4, **changes}
    return ConViT(**settings).eval()  # type: ignore[arg-type]


def gated(dim: int, heads: int, *, gate: float = 1.0) -> GatedPositional:
    """One layer with noise in every weight."""
    mixer = GatedPositional(dim, heads)
    with torch.no_grad():
        for i, p in enumerate(mixer.parameters()):
            p.copy_(noise(*p.shape, seed=i) * 0.4)
        mixer.gate.fill_(gate)
    return mixer.eval()


def neighbours(side: int, by: float) -> Tensor:
    """The weights along one axis, at -2..2, of a head that looks `by` places away: between two, half at each."""
    at = torch.arange(-2, 3) - by
    near = (at.abs() == at.abs().min()).float()
    return near / near.sum()


@pytest.mark.parametrize("heads", [4, 9, 16])
def test_with_the_gate_shut_a_newborn_layer_is_a_convolution(heads: int) -> None:
    dim, side, grid = 3 * heads, math.isqrt(heads), (6, 9)
    mixer = gated(dim, heads, gate=100.0)
    nn.init.zeros_(mixer.position.bias)
    as_convolution(mixer, locality=60.0)
    kernel = torch.zeros(dim, dim, 5, 5)
    for head in range(heads):
        across, down = divmod(head, side)
        look = torch.outer(neighbours(side, down - (side - 1) / 2), neighbours(side, across - (side - 1) / 2))
        part = slice(3 * head, 3 * head + 3)
        kernel[:, part] = mixer.out.proj.weight[:, part, None, None].detach() * look
    x = noise(2, dim, *grid)
    # what lies over the edge is answered by the nearest place within: a border that repeats itself
    expected = F.conv2d(F.pad(x, (2, 2, 2, 2), mode="replicate"), kernel, mixer.out.proj.bias)
    with torch.no_grad():
        out = mixer(x.flatten(2).mT, grid).mT.unflatten(2, grid)
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)


def test_born_as_published() -> None:
    model: Any = convit_s(depth=3, local=2, image=64, locality=0.5)
    for block in model.local:
        mixer = block.mix.fn
        assert torch.equal(mixer.gate, torch.ones(9)) and torch.equal(mixer.position.bias, torch.zeros(9))
        assert torch.equal(mixer.qkv.proj.weight[2 * 432:], torch.eye(432))
        steps = [(dx, dy) for dx in (-1, 0, 1) for dy in (-1, 0, 1)]
        assert mixer.position.weight.tolist() == [[dx, dy, -0.5] for dx, dy in steps]
        assert mixer.qkv.proj.weight[:2 * 432].std().item() == pytest.approx(0.02, rel=0.02)
    assert model.blocks[0].mix.fn.qkv.proj.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert model.position.table.std().item() == pytest.approx(0.02, rel=0.05)
    assert model.prefix.tokens.std().item() == pytest.approx(0.02, rel=0.15)


def test_heads_beyond_the_square_keep_their_noise() -> None:
    mixer = GatedPositional(24, 6)
    before = mixer.position.weight.detach().clone()
    as_convolution(mixer, 1.0)
    assert torch.equal(mixer.position.weight[4:], before[4:])
    assert torch.equal(mixer.position.weight[:4, 2], -torch.ones(4))


@pytest.mark.parametrize("grid", [(1, 1), (2, 5), (4, 3)])
def test_the_layer_is_the_papers_equation_place_by_place(grid: tuple[int, int]) -> None:
    heads, size, (h, w) = 3, 4, grid
    mixer = gated(heads * size, heads, gate=0.3).double()
    x = noise(h * w, heads * size, seed=9).double()
    q, k, v = (t.squeeze(-2) for t in (x @ mixer.qkv.proj.weight.T).unflatten(-1, (3, heads, size)).split(1, 1))
    places = [(i // w, i % w) for i in range(h * w)]
    outs = []
    for i, (y, u) in enumerate(places):
        row = []
        for head in range(heads):
            a = [(q[i, 0, head] @ k[j, 0, head] / math.sqrt(size)).item() for j in range(h * w)]
            b = []
            for t, s in places:
                r = torch.tensor([s - u, t - y, (s - u) ** 2 + (t - y) ** 2], dtype=torch.float64)
                b.append((mixer.position.weight[head] @ r + mixer.position.bias[head]).item())
            gate = 1 / (1 + math.exp(-mixer.gate[head].item()))
            content, place = ([math.exp(s - max(t)) for s in t] for t in (a, b))
            mixed = [(1 - gate) * c / sum(content) + gate * p / sum(place) for c, p in zip(content, place, strict=True)]
            row.append(sum(m / sum(mixed) * v[j, 0, head] for j, m in enumerate(mixed)))
        outs.append(torch.cat(row))
    expected = torch.stack(outs) @ mixer.out.proj.weight.T + mixer.out.proj.bias
    torch.testing.assert_close(mixer(x[None], grid)[0], expected)


def test_what_is_shown_is_what_mixes_and_its_rows_sum_to_one() -> None:
    mixer, x, seen = gated(12, 3), noise(2, 10, 12), []
    assert [type(m) for m in mixer.modules() if isinstance(m, Shown)] == [Shown]
    mixer.shown.register_forward_hook(lambda module, args, out: seen.append(out))
    out = mixer(x, (2, 5))
    (weights,) = seen
    assert weights.shape == (2, 3, 10, 10)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 3, 10))
    torch.testing.assert_close(mixer.out(weights @ mixer.qkv(x)[2]), out)


def test_the_gate_decides_how_far_a_token_sees() -> None:
    grid, x = (5, 5), noise(1, 25, 9)

    def reach(gate: float) -> Tensor:
        mixer = gated(9, 9, gate=gate)
        as_convolution(mixer, locality=60.0)
        y = x.clone().requires_grad_()
        mixer(y, grid)[0, 12].sum().backward()          # the token in the middle
        assert y.grad is not None
        return (y.grad[0].abs().sum(-1) > 1e-9).unflatten(0, grid)

    square = torch.zeros(5, 5, dtype=torch.bool)
    square[1:4, 1:4] = True
    assert torch.equal(reach(100.0), square)
    assert reach(0.0).all()


def test_the_bias_of_the_offsets_carries_nothing() -> None:
    mixer, x = gated(12, 3), noise(1, 8, 12)
    before = mixer(x, (2, 4))
    nn.init.constant_(mixer.position.bias, 3.0)
    torch.testing.assert_close(mixer(x, (2, 4)), before)


def test_the_class_token_joins_after_the_local_layers() -> None:
    model, lengths = small(), []
    for block in (*model.local, *model.blocks):
        block.register_forward_hook(lambda module, args, out: lengths.append(out.shape[1]))
    first = model(noise(1, 3, 64, 64))
    assert lengths == [16, 16, 17]
    assert model.position.prefix == 0 and model.position.table.shape[1] == 16
    nn.init.normal_(model.prefix.tokens)
    second = model(noise(1, 3, 64, 64))
    assert not torch.allclose(first.prefix, second.prefix)


@pytest.mark.parametrize("local", [-1, 3, 4])
def test_the_class_token_needs_a_layer(local: int) -> None:
    with pytest.raises(ModelError, match="say 0 to 2"):
        small(local=local)


def test_stochastic_depth_climbs_over_both_stacks() -> None:
    model = small(depth=5, local=3, drop_path=0.4)
    rates = [m.p for m in model.modules() if isinstance(m, DropPath)]
    assert rates == pytest.approx([0.0, 0.0, 0.1, 0.1, 0.2, 0.2, 0.3, 0.3, 0.4, 0.4])


def test_on_another_grid_the_positions_are_resampled_and_the_offsets_counted_anew() -> None:
    model, other = small(), small(image=(40, 96))
    image = noise(1, 3, 40, 96)
    other.load_state_dict({**model.state_dict(), "position.table":
                           resample_positions(model.position.table, (3, 6), old=(4, 4))})
    assert torch.equal(model(image).maps[0], other(image).maps[0])
    assert model(image).maps[0].shape == (1, 3, 6, 36)


def test_a_size_of_the_paper_has_as_many_heads_as_a_square_has_places() -> None:
    for sizes, width in (((convit_ti, convit_s, convit_b), 48), ((convit_ti_plus, convit_s_plus, convit_b_plus), 64)):
        for variant, side in zip(sizes, (2, 3, 4), strict=True):
            settings = variant.settings()
            assert settings["heads"] == side ** 2 and settings["dim"] == width * side ** 2 and settings["local"] == 10
