"""The noise fill is fixed for good: golden files were made with it."""
import zlib

import numpy as np
import pytest
import torch
from torch import nn

from vitrail.core.errors import VitrailError
from vitrail.testing.noise import fill_, noise


def z(name, *shape):
    return np.random.Generator(np.random.PCG64(zlib.crc32(name.encode()))).standard_normal(shape)


def test_numbers_that_never_change():
    values = noise({"blocks.0.attn.qkv.weight": torch.zeros(2, 2)})["blocks.0.attn.qkv.weight"]
    expected = torch.tensor([[-0.6264917850494385, -0.5530292391777039],
                             [-0.2569880485534668, 0.2657497227191925]])
    assert torch.equal(values, expected)


@pytest.mark.parametrize(("name", "shape", "rule"), [
    ("proj.weight", (4, 3, 2, 2), lambda x: x / np.sqrt(12)),
    ("pos_embed", (1, 5, 8), lambda x: x / np.sqrt(40)),
    ("gamma_table", (6, 2), lambda x: x / np.sqrt(2)),
    ("norm.weight", (8,), lambda x: 1 + 0.1 * x),
    ("ls1.gamma", (8,), lambda x: 1 + 0.1 * x),
    ("gamma_1", (8,), lambda x: 1 + 0.1 * x),
    ("norm.bias", (8,), lambda x: 0.1 * x),
    ("weight", (8,), lambda x: 0.1 * x),                # the pattern is `*.weight`
    ("bn.running_mean", (8,), lambda x: 0.1 * x),
    ("bn.running_var", (8,), lambda x: 1 + 0.1 * abs(x)),
    ("temperature", (), lambda x: 0.1 * x),
])
def test_each_rule(name, shape, rule):
    made = noise({name: torch.zeros(shape)})[name]
    assert made.dtype == torch.float32
    assert made.shape == shape
    assert np.array_equal(made.numpy(), np.asarray(rule(z(name, *shape)), dtype=np.float32))


def test_a_name_and_a_shape_are_all_that_counts():
    half = {"a.weight": torch.ones(3, 4, dtype=torch.float16), "b": torch.ones(2)}
    meta = {"b": torch.empty(2, device="meta"), "a.weight": torch.empty(3, 4, device="meta")}
    one, two = noise(half), noise(meta)
    assert list(one) == ["a.weight", "b"]
    assert all(torch.equal(one[k], two[k]) for k in one)


def test_integers_and_booleans_stay():
    state = {"index": torch.arange(4), "mask": torch.tensor([True, False])}
    assert all(torch.equal(v, state[k]) for k, v in noise(state).items())


def test_complex_numbers_have_no_rule():
    with pytest.raises(VitrailError, match="'freqs'"):
        noise({"freqs": torch.zeros(2, dtype=torch.complex64)})


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.one = nn.Linear(4, 3)
        self.two = nn.Linear(4, 3)
        self.two.weight = self.one.weight
        self.register_buffer("table", torch.full((2, 2), -100.0))
        self.register_buffer("passing", torch.full((2,), -100.0), persistent=False)


def test_fill_is_noise_of_the_state_dict():
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(2, 2, dtype=torch.float64))
    expected = noise(module.state_dict())
    fill_(module)
    for name, value in module.state_dict().items():
        assert torch.equal(value.float(), expected[name].float()), name
    assert module[1].num_batches_tracked == 0


def test_fill_leaves_what_is_not_saved_or_kept_and_shares_the_first_name():
    module = Tied()
    fill_(module, keep=("tab*",))
    assert torch.equal(module.table, torch.full((2, 2), -100.0))
    assert torch.equal(module.passing, torch.full((2,), -100.0))
    assert torch.equal(module.two.weight, noise({"one.weight": module.one.weight})["one.weight"])
