"""The walk equals the matrices that the papers write down, built whole and multiplied."""
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.explanation.tiny import noise, tiny
from vitrail.core.errors import ExplainError
from vitrail.explanation.explained import explained
from vitrail.explanation.methods import attention, evaluating, relevance, rollout
from vitrail.explanation.record import Layer, record
from vitrail.explanation.tokens import Share, normalised, read_by, readout, sites, spread, walk
from vitrail.nn import Features, Head, Windows, mean_finest
from vitrail.tasks.classification.model import Classifier


def layers_of(model: Classifier, image: Tensor, *, gradients: bool = False) -> tuple[list[Layer], Tensor]:
    with record(model, gradients=gradients) as seen:
        out = model(image)
    return sites(seen.layers), out


def dense(layer: Layer, weights: Tensor) -> np.ndarray:
    """Windowed attention (G, n, n) of one image as the N x N matrix between the tokens of its map."""
    assert layer.grid is not None and isinstance(layer.groups, Windows)
    h, w = layer.grid
    number = torch.arange(1, h * w + 1).float().view(1, h, w, 1)
    members = layer.groups.split(number)[0, :, :, 0].long() - 1             # (G, n), -1 for padding
    out = np.zeros((h * w, h * w))
    for g, group in enumerate(members.tolist()):
        for i, a in enumerate(group):
            for j, b in enumerate(group):
                if a >= 0 and b >= 0:
                    out[a, b] = weights[g, i, j]
    return out


def merging(h: int, w: int) -> np.ndarray:
    """What patch merging is to tokens: each new one the mean of the up to four that it was made of."""
    down = np.zeros((-(-h // 2) * -(-w // 2), h * w))
    for y in range(h):
        for x in range(w):
            down[y // 2 * -(-w // 2) + x // 2, y * w + x] = 1
    return down / down.sum(1, keepdims=True)


def test_rollout_of_a_vit_is_the_product_of_the_paper() -> None:
    model, image = tiny("vit_ti16"), noise(2, 3, 64, 80)
    layers, _ = layers_of(model, image)
    found = rollout(explained(model), image).map
    for b in range(2):
        R = np.eye(21)
        for layer in layers:
            A = layer.weights[b].double().mean(0).numpy() + np.eye(21)
            R = (A / A.sum(1, keepdims=True)) @ R
        assert np.allclose(R.sum(1), 1)
        assert np.allclose(found[b].flatten(), R[0, 1:], atol=1e-6)


def test_one_layer_of_rollout_is_half_attention_and_half_itself() -> None:
    model, image = tiny("vit_ti16", depth=1), noise(1, 3, 64, 64)
    (layer,), _ = layers_of(model, image)
    whole = Share(torch.eye(17)[None, :, :1], torch.eye(17)[None, :, 1:].unflatten(-1, (4, 4)))
    out = walk(whole, [(layer, layer.weights.mean(1))], normalised)
    R = torch.cat([out.prefix, out.map.flatten(2)], -1)[0]
    assert torch.allclose(R, (layer.weights[0].mean(0) + torch.eye(17)) / 2, atol=1e-6)
    out = walk(whole, [(layer, torch.eye(17)[None])], normalised)
    assert torch.equal(torch.cat([out.prefix, out.map.flatten(2)], -1)[0], torch.eye(17))


@pytest.mark.parametrize("size", [(64, 64), (72, 100)])                     # windows that fit, and padded odd maps
def test_rollout_of_a_swin_is_the_product_of_explicit_matrices(size: tuple[int, int]) -> None:
    model, image = tiny("swin_t"), noise(1, 3, *size)
    layers, _ = layers_of(model, image)
    assert layers[0].grid is not None
    R = np.eye(layers[0].grid[0] * layers[0].grid[1])
    grid = layers[0].grid
    for layer in layers:
        if layer.grid != grid:
            R, grid = merging(*grid) @ R, layer.grid
        A = dense(layer, layer.weights[0].mean(1)) + np.eye(len(R))
        R = (A / A.sum(1, keepdims=True)) @ R
    assert np.allclose(R.sum(1), 1)
    assert np.allclose(rollout(explained(model), image).map[0].flatten(), R.mean(0), atol=1e-7)


def by_hand(model: Classifier, image: Tensor, target: int, rows: Callable[[Layer, Tensor], np.ndarray]) -> np.ndarray:
    """Equations 5 and 6 with whole matrices: R = R + Ā R, Ā = mean over heads of (∇A ⊙ A)⁺."""
    layers, out = layers_of(model, image, gradients=True)
    R: np.ndarray | None = None
    for layer in layers:
        slope, = torch.autograd.grad(out[0, target], [layer.weights], retain_graph=True)
        A = rows(layer, (slope * layer.weights).relu()[0].detach().double())
        if R is None:
            R = np.eye(A.shape[1])
        if len(R) > A.shape[1]:
            assert layer.grid is not None
            R = merging(layer.grid[0] * 2, layer.grid[1] * 2) @ R
        R = R + A @ R
    assert R is not None
    return R


def test_relevance_of_a_vit_is_the_equations_of_the_paper() -> None:
    model, image = tiny("vit_ti16"), noise(1, 3, 64, 80)
    for target in (0, 3):
        R = by_hand(model, image, target, lambda layer, a: a.mean(0).numpy())
        assert np.allclose(relevance(explained(model), image, target).map[0].flatten(), R[0, 1:], rtol=1e-4, atol=1e-9)


def test_relevance_of_a_swin_is_the_same_equations_over_explicit_matrices() -> None:
    model, image = tiny("swin_t"), noise(1, 3, 64, 64)
    R = by_hand(model, image, 2, lambda layer, a: dense(layer, a.mean(1)))
    assert np.allclose(relevance(explained(model), image, 2).map[0].flatten(), R.mean(0), rtol=1e-4, atol=1e-9)


def test_distilled_answers_are_read_off_both_tokens() -> None:
    model, image = tiny("deit_ti16_distilled"), noise(1, 3, 64, 64)
    layers, _ = layers_of(model, image)
    R = np.eye(18)
    for layer in layers:
        A = layer.weights[0].double().mean(0).numpy() + np.eye(18)
        R = (A / A.sum(1, keepdims=True)) @ R
    assert np.allclose(rollout(explained(model), image).map[0].flatten(), R[:2, 2:].mean(0), atol=1e-6)


def test_a_class_token_that_joins_late_starts_with_nothing_of_the_image() -> None:
    model, image = tiny("convit_ti"), noise(1, 3, 64, 64)
    layers, _ = layers_of(model, image)
    R = np.eye(16)
    for layer in layers:
        A = layer.weights[0].double().mean(0).numpy()
        if len(A) > len(R):
            R = np.concatenate([np.zeros((1, 16)), R])
        A = A + np.eye(len(A))
        R = (A / A.sum(1, keepdims=True)) @ R
    assert np.allclose(rollout(explained(model), image).map[0].flatten(), R[0], atol=1e-6)


def test_class_attention_moves_only_the_token_that_asks() -> None:
    model, image = tiny("xcit_nano_12_p16"), noise(1, 3, 64, 64)
    layers, _ = layers_of(model, image)
    assert len(layers) == 2
    R = np.concatenate([np.zeros((1, 16)), np.eye(16)])
    for layer in layers:
        a = layer.weights[0].double().mean(0).numpy()[0]                    # (17,)
        R[0] = (R[0] + a @ R) / 2
    assert np.allclose(rollout(explained(model), image).map[0].flatten(), R[0], atol=1e-6)


def test_a_probe_asks_what_the_layers_gathered() -> None:
    model, image = tiny("vit_giant14"), noise(1, 3, 56, 56)
    layers, _ = layers_of(model, image)
    R = np.eye(16)
    for layer in layers[:-1]:
        A = layer.weights[0].double().mean(0).numpy() + np.eye(16)
        R = (A / A.sum(1, keepdims=True)) @ R
    probe = layers[-1].weights[0].double().mean(0).numpy()[0]
    found = rollout(explained(model), image).map[0]
    assert np.allclose(found.flatten(), probe @ R, atol=1e-6)
    map_ = attention(explained(model), image).map[0]
    assert torch.allclose(map_.flatten(), torch.from_numpy(probe).float(), atol=1e-6)


@pytest.mark.parametrize(("name", "tokens", "reads_map"), [
    ("vit_ti16", [0], False), ("deit_ti16_distilled", [0, 1], False), ("swin_t", [], True), ("vit_giant14", [], True),
    ("xcit_nano_12_p16", [0], False), ("resnet18", [], True)])
def test_what_a_head_reads_is_found_out_by_trying(name: str, tokens: list[int], reads_map: bool) -> None:
    model = tiny(name)
    for parameter in model.head.parameters():                               # found even through a head of zeros
        torch.nn.init.zeros_(parameter)
    features = model.backbone(noise(1, 3, 64, 64))
    found, read = read_by(model.head, features)
    assert found == tokens and read is (features.maps[-1] if reads_map else None)
    share = readout(model.head, features)
    assert share.prefix.sum() + share.map.sum() == pytest.approx(1)


def test_a_head_may_read_a_finer_map() -> None:
    maps = noise(1, 8, 8, 3), noise(1, 4, 4, 6)
    head = Head(3, 5, mean_finest)
    found, read = read_by(head, Features(maps))
    assert found == [] and read is maps[0]
    share = readout(head, Features(maps))
    assert share.map.shape == (1, 1, 8, 8) and share.map.sum() == pytest.approx(1)


def test_a_map_that_grows_again_is_refused() -> None:
    with pytest.raises(ExplainError, match="from 4 tokens to 8"):
        spread(torch.ones(1, 1, 8, 8), (4, 4))


def test_a_head_that_reads_nothing_is_refused() -> None:
    class Blind(torch.nn.Module):
        def forward(self, features: Features) -> Tensor:
            return torch.zeros(1, 2)
    with pytest.raises(ExplainError, match="neither"):
        readout(Blind(), Features(maps=(torch.zeros(1, 2, 2, 3),)))


def test_a_merged_token_was_the_mean_of_its_parts() -> None:
    coarse = noise(1, 2, 3, 2)
    fine = spread(coarse, (5, 4))
    assert torch.allclose(fine.flatten(2), coarse.flatten(2) @ torch.from_numpy(merging(5, 4)).float(), atol=1e-6)
    with pytest.raises(ExplainError, match="merging"):
        spread(coarse, (4, 4))


def test_raw_attention_is_a_row_of_one_layer() -> None:
    model, image = tiny("vit_ti16"), noise(2, 3, 64, 64)
    layers, _ = layers_of(model, image)
    for n in (0, 2, -1):
        map_ = attention(explained(model), image, layer=n, head=1).map
        assert torch.allclose(map_.flatten(1), layers[n].weights[:, 1, 0, 1:])
    by_name = attention(explained(model), image, layer="backbone.blocks.1.mix.fn").map.flatten(1)
    assert torch.allclose(by_name, layers[1].weights.mean(1)[:, 0, 1:])
    swin = tiny("swin_t")
    (first, *_), _ = layers_of(swin, image)
    found = attention(explained(swin), image, layer=0, head=0).map[0].flatten()
    assert np.allclose(found, dense(first, first.weights[0, :, 0]).mean(0), atol=1e-7)


def test_modes_return() -> None:
    model = tiny("vit_ti16").train()
    model.backbone.blocks[1].eval()
    before = [part.training for part in model.modules()]
    with evaluating(model):
        assert not any(part.training for part in model.modules())
    relevance(explained(model), noise(1, 3, 64, 64))
    assert [part.training for part in model.modules()] == before
    assert all(p.grad is None for p in model.parameters())
