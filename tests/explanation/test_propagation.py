"""Relevance by propagation: sums are kept, rules agree with their formulas, and other models are refused plainly."""
import pytest
import torch
from torch import Tensor, nn

import vitrail
from tests.explanation.tiny import noise, tiny
from vitrail.core.errors import ExplainError
from vitrail.explanation.explained import explained
from vitrail.explanation.propagation import _ratio, _split_product, _split_sum, hand_back, propagate
from vitrail.nn import Gelu, LayerNorm, Mlp, Residual, SelfAttention, mean_map
from vitrail.tasks.classification.model import Classifier
from vitrail.testing.noise import fill_


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def ran(part: nn.Module, x: Tensor) -> tuple[dict[nn.Module, tuple[tuple[object, ...], object]], Tensor]:
    """What every part below saw in one run, and the answer."""
    from vitrail.explanation.propagation import _watched
    fill_(part)
    with torch.no_grad(), _watched(part.double()) as seen:
        return seen, part(x)


@pytest.mark.parametrize("name", ["vit_ti16", "deit_ti16"])
@pytest.mark.parametrize("size", [(64, 64), (40, 90)])
def test_the_sum_is_kept_behind_every_part(name: str, size: tuple[int, int]) -> None:
    model = tiny(name).double()
    found = propagate(explained(model), noise(2, 3, *size).double(), 3)
    assert len(found.totals) == 3 + 2 * 3 + 1 and found.target == 3
    for part, total in found.totals:
        torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-9, msg=part)
    ends = found.map.sum((1, 2)) + found.prefix.sum(1) + found.positions
    torch.testing.assert_close(ends, torch.ones_like(ends), rtol=0, atol=1e-9)
    assert found.map.shape == (2, -(-size[0] // 16), -(-size[1] // 16)) and found.prefix.shape == (2, 1)


def test_it_depends_on_the_class_and_leaves_the_model_as_it_was() -> None:
    model, image = tiny("vit_ti16").train(), noise(1, 3, 64, 64)
    one, other, best = (propagate(explained(model), image, target) for target in (0, 1, None))
    assert (one.map - other.map).abs().max() > 1e-3
    assert best.target.item() == best.output.argmax().item()
    assert model.training and not any(p._forward_hooks for p in model.modules())
    torch.testing.assert_close(one.output, model.eval()(image))


def test_a_batch_is_its_images() -> None:
    model, image = tiny("vit_ti16").double(), noise(3, 3, 64, 64).double()
    whole = propagate(explained(model), image, 2)
    for i in range(3):
        torch.testing.assert_close(propagate(explained(model), image[i:i + 1], 2).map[0], whole.map[i])


@torch.no_grad()
def test_a_linear_layer_shares_by_positive_products() -> None:
    layer, x, relevance = nn.Linear(12, 3), draw(2, 12), draw(2, 3, seed=1)
    seen, _ = ran(layer, x)
    expected = torch.zeros_like(x)
    for b in range(2):
        for o in range(3):
            products = [float(x[b, i] * layer.weight[o, i]) for i in range(12)]
            whole = sum(p for p in products if p > 0)
            for i, p in enumerate(products):
                expected[b, i] += relevance[b, o] * max(p, 0.0) / whole
    torch.testing.assert_close(hand_back(layer, seen, relevance), expected)


def test_a_residual_shares_by_the_two_sides_sums() -> None:
    part, x, relevance = Residual(nn.Linear(6, 6), LayerNorm(6)), draw(2, 4, 6), draw(2, 4, 6, seed=1)
    seen, _ = ran(part, x)
    torch.testing.assert_close(hand_back(part, seen, relevance).sum((1, 2)), relevance.sum((1, 2)))
    u, v = _split_sum(draw(1, 8, seed=2), draw(1, 8, seed=3), relevance[:1, 0].new_ones(1, 8))
    unscaled = (draw(1, 8, seed=2) / (draw(1, 8, seed=2) + draw(1, 8, seed=3))).sum()
    rest = 8 - unscaled
    torch.testing.assert_close(u.sum(), unscaled.abs() / (unscaled.abs() + rest.abs()) * 8)
    torch.testing.assert_close(u.sum() + v.sum(), u.new_tensor(8.0))


def test_a_product_would_double_the_sum_were_it_not_scaled() -> None:
    a, b, relevance = draw(2, 4, 5), draw(2, 5, 3, seed=1), draw(2, 4, 3, seed=2)
    shares = _ratio(relevance, a @ b)
    raw = (a * (shares @ b.mT)).sum() + (b * (a.mT @ shares)).sum()
    torch.testing.assert_close(raw, 2 * relevance.sum())
    u, v = _split_product(a, b, a @ b, relevance)
    torch.testing.assert_close(u.sum((1, 2)), relevance.sum((1, 2)) / 2)
    torch.testing.assert_close(v.sum((1, 2)), relevance.sum((1, 2)) / 2)


@pytest.mark.parametrize("part", [SelfAttention(12, 3), Mlp(12, 20), Gelu()], ids=lambda p: type(p).__name__)
def test_parts_keep_the_sum(part: nn.Module) -> None:
    seen, y = ran(part, draw(2, 5, 12))
    relevance = draw(*y.shape, seed=1)
    torch.testing.assert_close(hand_back(part, seen, relevance).sum((1, 2)), relevance.sum((1, 2)))


def test_nothing_is_divided_by_nothing() -> None:
    assert _ratio(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 2.0])).tolist() == [0.0, 0.0]


def test_tokens_that_are_averaged_share_the_answer() -> None:
    model = tiny("vit_ti16").double()
    assert isinstance(model, Classifier)
    model.head.pool = mean_map                                      # type: ignore[assignment]
    found = propagate(explained(model), noise(1, 3, 64, 64).double(), 0)
    assert dict(found.totals)["head.pool"].item() == pytest.approx(1)
    assert found.totals[-1][1].item() == pytest.approx(1)


def test_a_new_head_is_refused() -> None:
    model = vitrail.create_model("vit_ti16", image=64, dim=32, depth=1, heads=2, classes=3)
    with pytest.raises(ExplainError, match="load trained weights"):
        propagate(explained(model), noise(1, 3, 64, 64))


def test_a_part_that_only_looks_like_one_with_a_rule_is_refused() -> None:
    class Shouting(SelfAttention):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)
    model = tiny("vit_ti16")
    model.get_submodule("backbone.blocks.1.mix").fn = Shouting(32, 2)
    with pytest.raises(ExplainError, match="a Shouting"):
        propagate(explained(model), noise(1, 3, 64, 64))


@pytest.mark.parametrize("name", ["swin_t", "resnet18", "deit_ti16_distilled"])
def test_other_models_are_refused_plainly(name: str) -> None:
    with pytest.raises(ExplainError, match="plain backbone"):
        propagate(explained(tiny(name)), noise(1, 3, 64, 64))
    with pytest.raises(ExplainError, match="no rule to propagate relevance through a Tanh"):
        model = tiny("vit_ti16")
        model.get_submodule("backbone.blocks.0.mlp.fn").act = nn.Tanh()
        propagate(explained(model), noise(1, 3, 64, 64))
