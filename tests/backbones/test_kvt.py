"""KVT: whom a token hears, and where it is the plain DeiT."""
from typing import Any

import pytest
import torch
from torch import nn

import vitrail
from tests.backbones.made import noise
from vitrail.backbones import deit, kvt
from vitrail.core.errors import ModelError


SMALL: dict[str, Any] = dict(image=32, patch=8, dim=16, depth=2, heads=2)       # 16 patches and the class token


def small(**changes: Any) -> Any:
    torch.manual_seed(0)
    model = kvt.kvt(**{**SMALL, **changes})
    with torch.no_grad():
        for i, p in enumerate(model.parameters()):
            p.add_(noise(*p.shape, seed=i), alpha=0.3)
    return model.eval()


@pytest.mark.parametrize("neighbours", [1, 5, 16])
def test_in_every_block_each_head_of_each_token_hears_so_many(neighbours: int) -> None:
    model, image = small(neighbours=neighbours), noise(2, 3, 32, 32)
    with torch.no_grad(), vitrail.record(model) as maps:
        model(image)
    seen = [layer.weights for layer in maps.layers]
    assert len(seen) == 2
    for weights in seen:
        assert ((weights > 0).sum(-1) == neighbours).all()
        torch.testing.assert_close(weights.sum(-1), torch.ones(2, 2, 17))


def test_they_are_the_most_alike() -> None:
    mixer, x = small(neighbours=5).blocks[0].mix.fn, noise(1, 17, 16)
    with torch.no_grad(), vitrail.record(mixer) as seen:
        mixer(x)
        q, k, _ = mixer.qkv(x)
    scores, heard = q @ k.mT, seen.layers[0].weights > 0
    assert scores.masked_fill(~heard, torch.inf).amin(-1).gt(scores.masked_fill(heard, -torch.inf).amax(-1)).all()


def test_the_class_token_may_be_left_out() -> None:
    """It is a token like the others: some heads of some patches do not hear it."""
    model = small(neighbours=5)
    with torch.no_grad(), vitrail.record(model) as maps:
        model(noise(2, 3, 32, 32))
    to_class = maps.layers[0].weights[..., 1:, 0] > 0
    assert to_class.any() and not to_class.all()


@pytest.mark.parametrize("neighbours, size", [(17, (32, 32)), (100, (32, 32)), (36, (40, 56))])
def test_with_as_many_neighbours_as_tokens_it_is_the_plain_deit(neighbours: int, size: tuple[int, int]) -> None:
    ours, plain = small(neighbours=neighbours), deit.DeiT(**SMALL).eval()
    plain.load_state_dict(ours.state_dict())            # the same names and shapes
    image = noise(2, 3, *size)
    with torch.no_grad():
        a, b = ours(image), plain(image)
        torch.testing.assert_close(a.maps[0], b.maps[0])
        torch.testing.assert_close(a.prefix, b.prefix)
        fewer = small(neighbours=5)(image)
    assert (fewer.prefix - b.prefix).abs().max() > 0.01


def test_a_token_that_nobody_chose_gets_no_gradient_in_its_block() -> None:
    mixer, x = small(neighbours=1).blocks[0].mix.fn, noise(1, 17, 16)
    with torch.no_grad(), vitrail.record(mixer) as seen:
        mixer(x)
    chosen = (seen.layers[0].weights > 0).any(1)[0]         # (N, M): by any head
    x.requires_grad_()
    for token in range(17):
        (grad,) = torch.autograd.grad(mixer(x)[0, token].square().sum(), x)
        assert torch.equal(grad[0].abs().sum(-1) > 0, chosen[token])


def test_no_neighbours_are_refused() -> None:
    with pytest.raises(ModelError, match="neighbours=0"):
        small(neighbours=0)


def test_born_as_a_deit() -> None:
    model = kvt.kvt_s16(depth=2)
    for linear in (m for m in model.modules() if isinstance(m, nn.Linear)):
        assert linear.weight.std().item() == pytest.approx(0.02, rel=0.05) and not linear.bias.any()
    assert model.position.table.std().item() == pytest.approx(0.02, rel=0.05)
