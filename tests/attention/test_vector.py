"""Vector attention: sets and patches, who normalises, every published relation, what a place sees."""
import pytest
import torch
from torch import nn

import vitrail
from tests.attention.proof import draw
from vitrail.attention.vector import (Relation, VectorPairwise, VectorPatchwise, clique_product, concatenation,
                                      dot_product, hadamard_product, patch_concatenation, star_product, subtraction,
                                      summation)
from vitrail.measure.memory import peak_bytes

KINDS = (VectorPairwise, VectorPatchwise)
PAIRS = {summation: 4, subtraction: 4, concatenation: 8, hadamard_product: 4, dot_product: 1}
PATCHES = {star_product: 9, clique_product: 81, patch_concatenation: 40}
Kind = type[VectorPairwise] | type[VectorPatchwise]


def test_every_relation_trains() -> None:
    forms: list[tuple[Kind, Relation, int]] = [(VectorPairwise, r, n + 2) for r, n in PAIRS.items()]
    forms += [(VectorPatchwise, r, n) for r, n in PATCHES.items()]
    for kind, relate, many in forms:
        mixer = kind(16, 2, window=3, relate=relate, hidden=4)
        first = mixer.gamma[0]
        assert isinstance(first, nn.BatchNorm2d) and first.num_features == many
        mixer(draw(2, 5, 4, 16)).square().sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in mixer.parameters())


@torch.no_grad()
def test_pairwise_is_of_sets_and_patchwise_is_not() -> None:
    """With no places told, a mirrored map gives the mirrored answer where neighbours are weighed one by one."""
    x = draw(1, 6, 7, 16)
    for kind, alike in ((VectorPairwise, True), (VectorPatchwise, False)):
        torch.manual_seed(0)
        mixer = kind(16, 2, window=3).eval()
        if isinstance(mixer, VectorPairwise):
            nn.init.zeros_(mixer.place.weight)
        assert torch.allclose(mixer(x.flip(2)).flip(2), mixer(x), atol=1e-5) == alike


@torch.no_grad()
def test_only_pairwise_weights_sum_to_one() -> None:
    for kind, alike in ((VectorPairwise, True), (VectorPatchwise, False)):
        mixer = kind(16, 2, window=3).eval()
        with vitrail.record(mixer) as seen:
            mixer(draw(1, 4, 3, 16))
        weights = seen["shown"]                                 # (B, G, N, K)
        assert weights.shape == (1, 2, 12, 9)
        assert torch.allclose(weights.sum(-1), torch.ones(1, 2, 12), atol=1e-5) == alike


@pytest.mark.parametrize("kind", KINDS)
def test_a_place_sees_its_window_and_no_more(kind: Kind) -> None:
    torch.manual_seed(0)
    mixer, x = kind(16, 2, window=3, hidden=8).eval(), draw(1, 7, 6, 16).requires_grad_()
    mixer(x)[0, 3, 2].sum().backward()
    assert x.grad is not None
    expected = torch.zeros(7, 6, dtype=torch.bool)
    expected[2:5, 1:4] = True
    assert torch.equal(x.grad[0].abs().sum(-1) > 0, expected)


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_inside_a_map_it_moves_with_its_input(kind: Kind) -> None:
    mixer, x = kind(16, 2, window=5).eval().double(), draw(1, 12, 11, 16, dtype=torch.float64)
    moved = mixer(x.roll((2, 1), (1, 2)))
    torch.testing.assert_close(mixer(x).roll((2, 1), (1, 2))[:, 4:-2, 3:-2], moved[:, 4:-2, 3:-2])


@pytest.mark.parametrize("kind", KINDS)
def test_memory_grows_with_the_places(kind: Kind) -> None:
    mixer = kind(16, 2)

    def peak(side: int) -> int:
        return peak_bytes(lambda: mixer(draw(1, side, side, 16)).sum().backward())
    assert peak(32) < 4.2 * peak(16)


@pytest.mark.parametrize("kind", KINDS)
def test_what_cannot_be_built_says_why(kind: Kind) -> None:
    with pytest.raises(ValueError, match="must be odd"):
        kind(16, 2, window=4)
    with pytest.raises(ValueError, match="do not divide"):
        kind(16, 3, width=16)
    with pytest.raises(ValueError, match="do not divide"):
        kind(16, 0)
