"""Explanations of pyramids whose keys are cells: the walk is the product of whole matrices, and no share gets lost."""
import numpy as np
import pytest
import torch
from torch import Tensor

from tests.explanation.tiny import noise
from vitrail.backbones.pvt import PVT
from tests.tasks.made import config
from vitrail.explanation.explained import explained
from vitrail.explanation.methods import attention, relevance, rollout, run
from vitrail.explanation.record import Layer, record
from vitrail.explanation.tokens import normalised, plain, readout, residual, sites, walk
from vitrail.measure.memory import peak_bytes
from vitrail.nn import Reduced
from vitrail.tasks.classification.model import Classifier

SIZES = [(64, 64), (72, 100)]       # squares that fit, and maps whose last rows and columns no square holds


def pyramid() -> Classifier:
    """With noise in every weight."""
    torch.manual_seed(0)
    backbone = PVT(image=64, dims=(16, 16), depths=(2, 2), heads=(1, 2), mlp_ratios=(2, 2), reductions=(4, 1))
    model = Classifier(backbone, backbone.make_head(3), config("pyramid", ("a", "b", "c"))).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.15 * torch.randn(parameter.shape)
    return model


def path(model: Classifier, image: Tensor) -> list[tuple[Layer, Tensor]]:
    with torch.no_grad(), record(model) as seen:
        model(image)
    return [(layer, layer.weights.mean(1)) for layer in sites(seen.layers)]


def dense(layer: Layer, weights: Tensor) -> np.ndarray:
    """(N, M) as the matrix between places: a cell's weight in 16 equal parts."""
    assert layer.grid is not None
    (h, w), side = layer.grid, layer.grid[1] // 4
    out = np.zeros((h * w, h * w))
    for y in range(h // 4 * 4):
        for x in range(w // 4 * 4):
            out[:, y * w + x] = weights[:, y // 4 * side + x // 4] / 16
    return out


def merging(h: int, w: int) -> np.ndarray:
    """Each token of the second stage as the mean of the up to four that it was made of."""
    down = np.zeros((-(-h // 2) * -(-w // 2), h * w))
    for y in range(h):
        for x in range(w):
            down[y // 2 * -(-w // 2) + x // 2, y * w + x] = 1
    return down / down.sum(1, keepdims=True)


@pytest.mark.parametrize("size", SIZES)
def test_rollout_is_the_product_of_whole_matrices(size: tuple[int, int]) -> None:
    model, image = pyramid(), noise(1, 3, *size)
    found = rollout(explained(model), image).map[0].flatten()
    layers = path(model, image)
    grid = layers[0][0].grid
    assert grid is not None and [isinstance(layer.groups, Reduced) for layer, _ in layers] == [True, True, False, False]
    R = np.eye(grid[0] * grid[1])
    for layer, weights in layers[:2]:
        A = dense(layer, weights[0]) + np.eye(len(R))
        assert np.allclose(A.sum(1), 2, atol=1e-5), "a softmax over cells is one over places"
        R = A / A.sum(1, keepdims=True) @ R
    R = merging(*grid) @ R
    whole = np.eye(1 + len(R))                                          # the class token joins, and holds no place
    for _, weights in layers[2:]:
        A = weights[0].double().numpy() + np.eye(len(whole))
        whole = A / A.sum(1, keepdims=True) @ whole
    assert np.allclose(found, whole[0, 1:] @ R, atol=1e-6)


@pytest.mark.parametrize("size", SIZES)
def test_no_share_is_lost(size: tuple[int, int]) -> None:
    model, image = pyramid(), noise(2, 3, *size)
    features, _ = run(explained(model), image)
    share, layers = readout(model.head, features), path(model, image)
    for step in (normalised, plain):
        out = walk(share, layers, step)
        torch.testing.assert_close(out.prefix.sum((1, 2)) + out.map.sum((1, 2, 3)), torch.ones(2))
    behind = walk(share, layers[2:], residual)
    before = walk(behind, layers[:2], residual)                         # what is kept and what is looked at: twice all
    torch.testing.assert_close(before.map.sum((1, 2, 3)), 4 * behind.map.sum((1, 2, 3)))
    assert torch.equal(before.prefix, behind.prefix)


def test_relevance_and_attention_lie_on_the_finest_map_they_saw() -> None:
    model, image = pyramid(), noise(2, 3, 72, 100)
    assert relevance(explained(model), image, target=1).map.shape == (2, 18, 25)
    found = attention(explained(model), image, layer=0).map
    assert not found[:, 16:].any() and not found[..., 24:].any(), "no square holds the last rows and columns"
    torch.testing.assert_close(found.sum((1, 2)), torch.ones(2))


def test_no_matrix_over_all_places_is_built() -> None:
    model, image = pyramid(), noise(1, 3, 256, 256)
    layers = path(model, image)
    features, _ = run(explained(model), image)
    share = readout(model.head, features)
    places = 64 * 64
    assert peak_bytes(lambda: walk(share, layers[:2], normalised)) < places * places
