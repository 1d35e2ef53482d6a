"""Groups, depths, the schedule and the average."""
import math
from typing import Any

import pytest
import torch
from torch import nn

import vitrail
from vitrail.nn import Chain, LayerNorm, Mlp, PositionTable, Prefix, RelativeBias, Residual, Stack
from vitrail.training.ema import EMA
from vitrail.training.optim import depths, optimizer, set_rate
from vitrail.training.schedule import learning_rate


def residual() -> Residual:
    return Residual(Mlp(4, 8), LayerNorm(4))


class Flat(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch_embed, self.prefix, self.position = nn.Linear(3, 4), Prefix(1, 4), PositionTable((2, 2), 4, prefix=1)
        self.bias = RelativeBias(2, 2)
        self.blocks = Stack(residual() for _ in range(3))
        self.norm, self.head = LayerNorm(4), nn.Linear(4, 2)


class Staged(nn.Module):
    """Stages of blocks with something between them, as Swin has."""

    def __init__(self) -> None:
        super().__init__()
        self.patch_embed = nn.Linear(3, 4)
        self.stages = Stack(Chain(merge=nn.Linear(4, 4), blocks=Stack(residual() for _ in range(n))) for n in (2, 1))
        self.head = nn.Linear(4, 2)


def test_depths_of_a_flat_network() -> None:
    found = depths(Flat())
    assert {d for n, d in found.items() if n.startswith(("patch_embed", "prefix", "position", "bias"))} == {0}
    assert [{d for n, d in found.items() if n.startswith(f"blocks.{k}.")} for k in range(3)] == [{1}, {2}, {3}]
    assert {d for n, d in found.items() if n.startswith(("norm", "head"))} == {4}


def test_depths_count_blocks_not_stages() -> None:
    found = {n: d for n, d in depths(Staged()).items() if n.endswith((".merge.weight", "fc1.weight", "head.weight"))}
    assert list(found.values()) == [0, 1, 2, 3, 3, 4]


def test_a_network_that_is_a_stack_itself() -> None:
    assert sorted(set(depths(Stack(nn.Linear(2, 2) for _ in range(3))).values())) == [1, 2, 3]


def test_a_network_without_stacks_has_one_depth() -> None:
    assert set(depths(nn.Linear(2, 2)).values()) == {0}


def test_what_decays_and_how_fast_each_depth_learns() -> None:
    model = Flat()
    model.patch_embed.bias.requires_grad_(False)
    adam = optimizer(model, lr=1.0, weight_decay=0.3, betas=(0.8, 0.9), layer_decay=0.5)
    names = {id(p): n for n, p in model.named_parameters()}
    seen = {names[id(p)]: (g["weight_decay"], g["lr"], g["betas"]) for g in adam.param_groups for p in g["params"]}
    assert set(seen) == set(names.values()) - {"patch_embed.bias"}
    for name, p in model.named_parameters():
        if p.requires_grad:
            kept = p.ndim == 1 or name in ("prefix.tokens", "position.table", "bias.table")
            assert seen[name] == (0.0 if kept else 0.3, 0.5 ** (4 - depths(model)[name]), (0.8, 0.9)), name
    assert seen["head.weight"][1] == 1.0 and seen["patch_embed.weight"][1] == 1 / 16
    set_rate(adam, 0.1)
    after = {names[id(p)]: g["lr"] for g in adam.param_groups for p in g["params"]}
    assert after["blocks.0.fn.fc1.weight"] == pytest.approx(0.0125)
    assert adam.defaults["fused"]


@pytest.mark.parametrize("name, changes", [
    ("beit_b16", dict(depth=1)), ("cmt_ti", dict(depths=(1, 1, 1, 1))), ("coatnet_0", dict(depths=(1, 1, 1, 1))),
    ("hvt_ti_1", dict(depth=2)), ("swin_t", dict(depths=(1, 1), heads=(3, 6))), ("vit_ti16", dict(depth=1))])
def test_no_table_of_positions_decays(name: str, changes: dict[str, Any]) -> None:
    model = vitrail.create_model(name, classes=3, **changes)
    adam = optimizer(model, lr=1.0, weight_decay=0.3, betas=(0.9, 0.99))
    decays = {id(p): g["weight_decay"] for g in adam.param_groups for p in g["params"]}
    tables = [p for n, p in model.named_parameters() if n.endswith((".table", "prefix.tokens"))]
    assert tables and all(decays[id(p)] == 0 for p in tables)
    assert any(decays[id(p)] == 0.3 for p in model.parameters())


def test_without_layer_decay_there_are_two_groups() -> None:
    assert len(optimizer(Flat(), lr=1.0, weight_decay=0.3, betas=(0.9, 0.99)).param_groups) == 2


def test_the_schedule_rises_and_falls() -> None:
    rates = [learning_rate(s, total=100, warmup=10, lr=1.0, min_lr=0.1) for s in range(101)]
    assert rates[:10] == pytest.approx([(s + 1) / 10 for s in range(10)])
    assert rates[10] == 1.0 and rates[55] == pytest.approx(0.55) and rates[100] == pytest.approx(0.1)
    assert all(a >= b for a, b in zip(rates[10:], rates[11:], strict=False))
    assert learning_rate(0, total=1, warmup=0, lr=1.0, min_lr=0.1) == 1.0
    assert learning_rate(4, total=5, warmup=5, lr=1.0, min_lr=0.1) == 1.0
    assert all(math.isfinite(r) for r in rates)


def test_the_average_is_the_formula() -> None:
    model = nn.BatchNorm1d(3).double()
    average = EMA(model, decay=0.5)
    assert model.running_var is not None
    expected = {n: t.detach().float() for n, t in (("weight", model.weight), ("running_var", model.running_var))}
    for t in range(1, 12):
        with torch.no_grad():
            model.weight.add_(0.7)
            model.running_var.mul_(1.1)
        average.update(t)
        d = min(0.5, (1 + t) / (10 + t))
        for name, now in (("weight", model.weight), ("running_var", model.running_var)):
            expected[name] = d * expected[name] + (1 - d) * now.detach().float()
    assert set(average.tensors) == {"weight", "bias", "running_mean", "running_var"}, "whole numbers are not averaged"
    for name, value in expected.items():
        assert average.tensors[name].dtype == torch.float32
        torch.testing.assert_close(average.tensors[name], value)


def test_the_average_is_lent_and_given_back_to_the_bit() -> None:
    model = nn.Linear(3, 2)
    average = EMA(model, decay=0.9)
    with torch.no_grad():
        model.weight.normal_()
    average.update(1)
    own = model.weight.detach().clone()
    with pytest.raises(ZeroDivisionError), average.applied():
        assert torch.equal(model.weight, average.tensors["weight"]) and not torch.equal(model.weight, own)
        raise ZeroDivisionError
    assert torch.equal(model.weight, own) and model.weight.requires_grad


def test_tied_weights_are_averaged_once() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    average = EMA(model, decay=0.9)
    assert set(average.tensors) == {"0.weight", "0.bias", "1.bias"}
