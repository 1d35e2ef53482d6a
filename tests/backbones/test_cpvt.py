"""CPVT: without its convolution tokens have no order, and at the border alone it tells places apart."""
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import vitrail
from tests.backbones.made import noise
from vitrail.backbones.cpvt import CPVT
from vitrail.core.errors import ModelError
from vitrail.nn import DropPath


def small(**changes: Any) -> CPVT:
    """With weights that are no longer those of birth."""
    torch.manual_seed(0)
    model = CPVT(**{"patch": 4, "dim": 16, "depth": 2, "heads": 2, **changes}).eval()
    with torch.no_grad():
        for i, p in enumerate(model.parameters()):
            p += 0.2 * noise(*p.shape, seed=i)
    return model


def pooled(model: CPVT, image: Tensor) -> Tensor:
    features = model(image)
    return features.prefix[:, 0] if features.prefix is not None else features.maps[-1].mean((1, 2))


@pytest.mark.parametrize("tokens", [0, 1])
def test_the_convolution_is_all_that_tells_the_order_of_patches(tokens: int) -> None:
    model, patches = small(tokens=tokens), noise(1, 3, 16, 4, 4)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(1))

    def image(patches: Tensor) -> Tensor:
        return patches.unflatten(2, (4, 4)).permute(0, 1, 2, 4, 3, 5).reshape(1, 3, 16, 16)
    one, other = image(patches), image(patches[:, :, order])
    assert not torch.allclose(pooled(model, one), pooled(model, other), atol=1e-3)
    with torch.no_grad():
        nn.init.zeros_(model.position.conv.weight)
    torch.testing.assert_close(pooled(model, one), pooled(model, other), rtol=1e-4, atol=1e-5)


def test_an_image_of_one_colour_has_a_border_and_an_interior() -> None:
    """A block sees one set of tokens at every place; what the zeros beyond the edge add is all that differs."""
    model = small(tokens=0)
    found = model(torch.full((1, 3, 32, 32), 0.7)).maps[0][0]                   # (8, 8, C)
    inside = found[1:-1, 1:-1]
    torch.testing.assert_close(inside, inside[:1, :1].expand_as(inside), rtol=1e-4, atol=1e-4)
    assert (found[0, 0] - inside[0, 0]).abs().max() > 0.01


def test_the_class_token_goes_past_the_convolution() -> None:
    model, x = small(), noise(1, 1 + 9, 16).requires_grad_()
    (slope,) = torch.autograd.grad(model.position(x, (3, 3))[0, 0].square().sum(), x)
    assert slope[0].abs().sum(-1).nonzero().flatten().tolist() == [0]
    assert torch.equal(model.position(x, (3, 3))[:, 0], x[:, 0])


def test_positions_stand_behind_the_first_block_and_nowhere_else() -> None:
    model, seen = small(depth=3), []
    for part in (*model.first, model.position, *model.blocks):
        part.register_forward_hook(lambda module, args, out: seen.append(module))
    model(noise(1, 3, 16, 16))
    assert seen == [model.first[0], model.position, *model.blocks] and len(model.blocks) == 2


def test_no_tensor_depends_on_the_size_of_the_image() -> None:
    model = vitrail.create_model("cpvt_ti16")
    assert "image" not in vitrail.card("cpvt_ti16").variant.settings()
    assert sum(p.numel() for p in model.parameters()) == 5_717_416 - 197 * 192 + 10 * 192      # DeiT's, table for PEG


def test_stochastic_depth_counts_the_first_block() -> None:
    drops = [m.p for m in small(depth=3, drop_path=0.2).modules() if isinstance(m, DropPath)]
    assert drops == pytest.approx([0, 0, 0.1, 0.1, 0.2, 0.2])


def test_born_as_published() -> None:
    model = vitrail.create_model("cpvt_s16", depth=2)
    for part in model.modules():
        if isinstance(part, nn.Linear):
            assert part.weight.std().item() == pytest.approx(0.02, rel=0.06) and not part.bias.any()
    assert model.backbone.position.conv.weight.std().item() == pytest.approx((2 / 9) ** 0.5, rel=0.1)


@pytest.mark.parametrize("changes", [dict(tokens=2), dict(depth=0)])
def test_settings_that_do_not_go_together_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match="one class token or none"):
        small(**changes)
