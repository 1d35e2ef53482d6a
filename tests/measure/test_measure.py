"""Exponents, and peaks of memory."""
import mmap

import numpy as np
import pytest
import torch

from vitrail.measure.fit import growth
from vitrail.measure.memory import peak_bytes
from vitrail.measure.operations import multiply_adds
from vitrail.deploy.cpu import int8
from vitrail.measure.product import COLUMNS, INNER, MULTIPLY_ADDS, ROWS, packed_product
from vitrail.measure.resident import forget_peak, peak_bytes_resident, resident_bytes
from vitrail.measure.timing import Times, in_turns


@pytest.mark.parametrize("exponent", [1.0, 1.5, 2.0])
def test_an_exact_power_is_found_exactly(exponent: float) -> None:
    found = growth([64, 256, 1024], [[3 * n**exponent] for n in (64, 256, 1024)])
    assert found.exponent == pytest.approx(exponent) and found.factor == pytest.approx(3)
    assert found.low == pytest.approx(exponent) == pytest.approx(found.high)


def test_the_interval_covers_what_noise_hides() -> None:
    draw, inside = np.random.default_rng(0), 0
    for _ in range(60):
        costs = [np.exp(1.5 * np.log(n) + 0.1 * draw.standard_normal(9)).tolist() for n in (64, 256, 1024, 4096)]
        found = growth([64, 256, 1024, 4096], costs)
        inside += found.low <= 1.5 <= found.high
        assert found.high - found.low < 0.2
    assert inside > 45, "95 % is the promise; medians of nine draws keep a little less"


def test_costs_that_cannot_be_fitted_are_refused() -> None:
    for sizes, costs in (([64], [[1.0]]), ([64, 128], [[1.0], [0.0]]), ([64, 128], [[1.0]])):
        with pytest.raises(ValueError, match="two sizes"):
            growth(sizes, costs)


def test_the_peak_counts_what_is_alive_at_once() -> None:
    one = 4 * 1_000_000

    def in_turn() -> None:
        for _ in range(5):
            torch.ones(1_000_000)

    def at_once() -> list[torch.Tensor]:
        return [torch.ones(1_000_000) for _ in range(5)]
    assert peak_bytes(in_turn) < 1.1 * one
    assert 5 * one <= peak_bytes(at_once) < 5.1 * one


def test_the_peak_counts_what_a_kernel_holds_inside() -> None:
    x = torch.randn(1, 2, 512, 16)
    maps = 2 * 512 * 512 * 4
    assert peak_bytes(lambda: (x @ x.mT).softmax(-1) @ x) >= maps
    assert 0 < peak_bytes(lambda: torch.nn.functional.scaled_dot_product_attention(x, x, x)) < maps / 2


def test_multiply_adds_are_those_of_products_convolutions_and_fused_attention() -> None:
    x = torch.randn(2, 3, 10, 4)
    assert multiply_adds(lambda: x @ x.mT) == 2 * 3 * 10 * 10 * 4
    fused = multiply_adds(lambda: torch.nn.functional.scaled_dot_product_attention(x, x, x))
    assert fused == multiply_adds(lambda: (x @ x.mT).softmax(-1) @ x) == 2 * 2 * 3 * 10 * 10 * 4
    assert multiply_adds(lambda: torch.nn.functional.conv2d(x, torch.randn(5, 3, 1, 1))) == 2 * 10 * 4 * 3 * 5
    at = torch.randint(0, 10, (7, 2))
    assert multiply_adds(lambda: torch.nn.functional.embedding_bag(at, x[0, 0], mode="sum")) == 7 * 2 * 4


@pytest.mark.parametrize(("dtype", "apart"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2), (torch.int8, 2.5e-2)])
def test_the_machines_measure_is_a_true_product(dtype: torch.dtype, apart: float) -> None:
    generator = torch.Generator().manual_seed(0)
    if dtype == torch.int8 and not int8.available():
        pytest.skip("no products in int8 here")
    answer = torch.bfloat16 if dtype == torch.int8 else dtype
    x, weight = (torch.randn(n, INNER, generator=generator).to(answer) for n in (ROWS, COLUMNS))
    made, whole = packed_product(dtype)(), x.float() @ weight.float().T
    assert isinstance(made, torch.Tensor) and made.dtype == answer and made.numel() * INNER == MULTIPLY_ADDS
    assert (made.float() - whole).abs().max() <= apart * whole.abs().max()


def test_turns_take_the_seconds_that_things_tell_in_an_order_drawn_anew() -> None:
    called: list[str] = []

    def told(name: str, seconds: float) -> float:
        called.append(name)
        return seconds
    things = {name: (lambda n=name, s=seconds: told(n, s)) for name, seconds in (("a", 1.0), ("b", 2.0), ("c", 3.0))}
    times = in_turns(things, rounds=58, warm=2)
    assert {name: t.seconds for name, t in times.items()} == {"a": (1.0,) * 58, "b": (2.0,) * 58, "c": (3.0,) * 58}
    rounds = {"".join(called[i:i + 3]) for i in range(0, len(called), 3)}
    assert len(called) == 180 and len(rounds) == 6
    assert Times((1.0, 2.0, 3.0, 4.0, 5.0)).quartiles == (2.0, 4.0) and Times((7.0,)).quartiles == (7.0, 7.0)


@pytest.mark.skipif(resident_bytes() is None, reason="this system does not tell")
def test_what_a_process_holds_and_held_at_most() -> None:
    held, size = resident_bytes(), 200_000_000
    large = mmap.mmap(-1, size)                             # malloc might have as much lying about
    np.frombuffer(large, np.uint8)[:] = 1
    here = resident_bytes()
    assert held is not None and here is not None and here - held > 0.9 * size
    large.close()
    peak, left = peak_bytes_resident(), resident_bytes()
    assert peak is not None and left is not None and peak - left > 0.9 * size
    if forget_peak():
        again = peak_bytes_resident()
        assert again is not None and peak - again > 0.9 * size
