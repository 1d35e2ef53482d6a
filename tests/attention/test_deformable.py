"""Deformable attention: what it reads, what it keeps, how it is born, and what it says when it cannot."""
import operator
from functools import partial

import pytest
import torch
from torch import Tensor

import vitrail
from tests.attention.proof import draw
from tests.attention.proofs_sampled import PYRAMIDS, pyramid, sampled_by_grid
from vitrail.attention.deformable import Deformable, DeformableMap
from vitrail.core.errors import ModelError
from vitrail.measure.memory import peak_bytes
from vitrail.ops.deformable import centres, sample_sum


def asked(sizes: list[tuple[int, int]], dim: int, queries: int,
          numbers: int = 2) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Queries, references and maps."""
    reference = draw(2, queries, len(sizes), numbers, seed=1).sigmoid()
    return draw(2, queries, dim), reference, [draw(2, h, w, dim, seed=i) for i, (h, w) in enumerate(sizes)]


@pytest.mark.parametrize("sizes", PYRAMIDS, ids=("squares", "strips"))
def test_gradient_of_every_input(sizes: list[tuple[int, int]]) -> None:
    maps, places, weights = pyramid(sizes)
    assert torch.autograd.gradcheck(lambda at, w, *maps: sample_sum(maps, at, w), (places, weights, *maps),
                                    fast_mode=True)


def test_newborn_offsets_have_the_slope_to_the_right() -> None:
    """They are whole, on the bends of the samples, where a derivative of hats alone would be 0."""
    x = draw(1, 4, 8, 1, 1, dtype=torch.float64)                    # sizes of which all centres are exact
    size = torch.tensor([8, 4])
    steps = torch.randint(-5, 6, (9, 1, 1, 1, 2), generator=torch.Generator().manual_seed(0))
    places = (centres([(4, 8)], x)[:, None, None, None, None] + steps / size).flatten(0, 1)[None].requires_grad_()
    weights = torch.ones(places.shape[:-1], dtype=torch.float64)
    here = sample_sum([x], places, weights)
    slope, = torch.autograd.grad(here.sum(), places)
    for axis in (0, 1):                                             # a sample is straight for a pixel from there
        aside = torch.zeros(2, dtype=torch.float64)
        aside[axis] = 0.5 / size[axis]
        with torch.no_grad():
            rise = (sample_sum([x], places + aside, weights) - here) / aside[axis]
        torch.testing.assert_close(slope[..., axis].flatten(), rise.flatten(), rtol=1e-10, atol=1e-10)


def test_a_token_reads_four_pixels_a_point() -> None:
    mixer, x = DeformableMap(8, 2, points=3), draw(1, 12, 11, 8).requires_grad_()
    with torch.no_grad():
        mixer.sample.offsets.bias.add_(0.3)
    mixer(x)[0, 6, 5].sum().backward()
    assert x.grad is not None
    read = x.grad[0].abs().sum(-1) > 0
    assert 1 < int(read.sum()) <= 2 * 3 * 4 + 1


def test_masked_places_tell_nothing() -> None:
    sizes = PYRAMIDS[1]
    attention = Deformable(16, 4)
    query, reference, maps = asked(sizes, 16, 9)
    masks = [draw(2, h, w, seed=3) > 0 for h, w in sizes]
    broken = [x.masked_fill(~mask[..., None], float("nan")) for x, mask in zip(maps, masks, strict=True)]
    with torch.no_grad():
        assert torch.equal(attention(query, reference, broken, masks), attention(query, reference, maps, masks))
        assert not torch.allclose(attention(query, reference, maps, masks), attention(query, reference, maps))


def test_a_place_that_is_no_number_is_no_crash() -> None:
    maps, places, weights = pyramid(PYRAMIDS[0], dtype=torch.float32)
    with torch.no_grad():
        places[0, 0, 0, 0, 0, 0], places[0, 1, 0, 0, 0, 0], places[0, 2, 0, 0, 0, 1] = float("nan"), 1e30, float("-inf")
    out = sample_sum(maps, places, weights)
    assert out[0, 0, 0].isnan().all() and out[0, 1:3].isfinite().all() and out[1].isfinite().all()
    out.sum().backward()


def test_coordinates_keep_their_precision() -> None:
    """In bfloat16 a map of 300 columns could be read at every other column only."""
    x = torch.arange(300.0).view(1, 1, 300, 1, 1).bfloat16()
    places = centres([(1, 300)], x).view(1, 300, 1, 1, 1, 2)
    read = sample_sum([x], places, torch.ones(1, 300, 1, 1, 1))
    assert read.dtype == torch.bfloat16 and torch.equal(read.flatten(), x.flatten())


@pytest.mark.parametrize("numbers", [2, 4])
def test_it_exports_to_plain_operators(numbers: int) -> None:
    attention = Deformable(16, 4)
    inputs = asked(PYRAMIDS[0], 16, 9, numbers)
    program = torch.export.export(attention, inputs)
    with torch.no_grad():
        torch.testing.assert_close(program.module()(*inputs), attention(*inputs))
        torch.testing.assert_close(program.run_decompositions().module()(*inputs), attention(*inputs))
    called = {n.target for n in program.graph.nodes if n.op == "call_function"} - {operator.getitem}
    assert all(str(target).startswith("aten.") for target in called)


def test_it_compiles_forward_and_backward() -> None:
    """Into one graph, which the compiler's own steps leave the same."""
    attention = Deformable(16, 4)
    inputs = asked(PYRAMIDS[1], 16, 9)
    compiled = torch.compile(attention, backend="aot_eager", fullgraph=True)
    slopes = [torch.autograd.grad(call(*inputs).square().sum(), list(attention.parameters()))
              for call in (compiled, attention)]
    torch.testing.assert_close(*slopes)


def test_record_shows_the_weights_of_all_points() -> None:
    attention, inputs = Deformable(16, 4, points=2), asked(PYRAMIDS[1], 16, 9)
    with vitrail.record(attention) as seen:
        attention(*inputs)
    weights = seen["shown"]
    assert weights.shape == (2, 4, 9, 8)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 4, 9))


def test_memory_grows_with_the_tokens() -> None:
    """Four times as many tokens, at most 4.2 times the memory, forward and backward."""
    mixer = DeformableMap(16, 4)

    def train(x: Tensor) -> None:
        mixer(x).sum().backward()
    for call in (mixer, train):
        small, large = (peak_bytes(partial(call, draw(1, side, side, 16))) for side in (32, 64))
        assert large < 4.2 * small


def test_no_sample_is_stored() -> None:
    """The plain form holds every sample of every level; this one holds less than a quarter of that."""
    sizes = [(16, 16), (8, 8), (4, 4), (2, 2)]
    maps = [draw(1, h, w, 4, 32) for h, w in sizes]
    places, weights = draw(1, 340, 4, 4, 4, 2).sigmoid(), draw(1, 340, 4, 4, 4).sigmoid()
    plain, bags = (peak_bytes(partial(form, maps, places, weights)) for form in (sampled_by_grid, sample_sum))
    assert bags < plain / 4


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ModelError, match="3 heads do not divide a width of 16"):
        Deformable(16, 3)
    with pytest.raises(ModelError, match="a level and a point, not 0 and 4"):
        Deformable(16, 4, levels=0)
    attention = Deformable(16, 4)
    query, reference, maps = asked(PYRAMIDS[0], 16, 9)
    with pytest.raises(ModelError, match="4 levels was given 3 maps and references on 4 levels"):
        attention(query, reference, maps[:3])
    with pytest.raises(ModelError, match="not 3 numbers"):
        attention(query, torch.cat([reference, reference[..., :1]], -1), maps)
