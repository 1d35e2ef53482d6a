"""DeepViT: which blocks mix their heads' maps, what the released residuals and norms need, how it is born."""
import copy
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import vitrail
from tests.backbones.made import noise
from vitrail.attention.re_attention import ReAttention
from vitrail.backbones import deepvit
from vitrail.backbones.deepvit import ConvPatches, DeepViT
from vitrail.core.errors import ModelError
from vitrail.nn import SelfAttention


def small(**changes: Any) -> Any:
    """Noise in every weight, so that no zero or one hides what stands behind it."""
    torch.manual_seed(0)
    model = DeepViT(**{"image": 32, "patch": 8, "dim": 16, "depth": 3, "heads": 2, "plain": 1, **changes})
    with torch.no_grad():
        for i, p in enumerate(model.parameters()):
            p.add_(noise(*p.shape, seed=i), alpha=0.3)
    return model.eval()


def heads_mix(model: Any, at: int) -> bool:
    """Whether what one head sees moves when only another head's queries do."""
    mixer, x, seen = model.blocks[at].mix.fn, noise(1, 6, 16), []
    with torch.no_grad(), vitrail.record(mixer) as maps:
        for _ in range(2):
            mixer(x)
            seen.append(maps.layers[0].weights[0, 0])
            mixer.qkv.proj.weight[8:16] += 1            # the queries of the second head
    return not torch.equal(*seen)


def test_only_the_last_blocks_mix_heads() -> None:
    assert [heads_mix(small(), at) for at in range(3)] == [False, True, True]


@pytest.mark.parametrize("name, plain, depth", [("deepvit_16b", 0, 16), ("deepvit_32b", 0, 32), ("deepvit_s", 11, 16),
                                                ("deepvit_l", 20, 32), ("deepvit_l_384", 20, 32)])
def test_how_many_are_last_in_the_release(name: str, plain: int, depth: int) -> None:
    with torch.device("meta"):
        blocks = vitrail.create_model(name).backbone.blocks
    assert [type(b.mix.fn) for b in blocks] == [SelfAttention] * plain + [ReAttention] * (depth - plain)


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_a_norm_of_r_times_x_is_a_norm_with_a_smaller_epsilon(scale: float) -> None:
    """x + f(LN(r x)) / r, at values so small that the epsilon counts."""
    block, x = small(scale=scale).blocks[1], noise(2, 5, 16) * 1e-3
    for part in (block.mix, block.mlp):
        normed = F.layer_norm(scale * x, (16,), part.norm.weight, part.norm.bias, 1e-6)
        torch.testing.assert_close(part(x), x + part.fn(normed) / scale)


def test_the_smaller_of_two_sizes_weakens_its_maps_by_the_root_of_a_heads_width() -> None:
    for name, gain in (("deepvit_s", 1 / math.sqrt(33)), ("deepvit_l", 1.0)):
        with torch.device("meta"):
            block = vitrail.create_model(name).backbone.blocks[-1]
        assert block.mix.fn.gain == pytest.approx(gain, rel=1e-12)


@pytest.mark.parametrize("training", [False, True])
def test_the_gain_stands_behind_the_norm(training: bool) -> None:
    mixer, maps = small(gain=0.25).blocks[1].mix.fn.train(training), noise(2, 2, 6, 6).softmax(-1)
    norm = nn.BatchNorm2d(2)
    norm.load_state_dict(mixer.norm.state_dict())
    expected = 0.25 * norm.train(training)(torch.einsum("hi,bimn->bhmn", mixer.theta, maps))
    torch.testing.assert_close(mixer.mixed(maps), expected)


@pytest.mark.parametrize("training", [False, True])
def test_a_bias_before_the_norm_is_held_by_the_running_mean_alone(training: bool) -> None:
    """As in released weights: with the mean that holds it the answer stays, and training learns the same."""
    first = small().blocks[1].mix.fn
    second = copy.deepcopy(first)
    second.offset.add_(0.5)
    second.norm.running_mean.add_(0.5)
    x = noise(2, 6, 16)
    torch.testing.assert_close(first.train(training)(x), second.train(training)(x))
    torch.testing.assert_close(first.norm.running_mean + 0.5, second.norm.running_mean)
    assert all(name != "offset" for name, _ in second.named_parameters()), "no gradient would ever reach it"


@pytest.mark.parametrize("height, width", [(32, 48), (33, 17), (5, 70)])
def test_the_stem_sees_past_the_edge_of_a_patch(height: int, width: int) -> None:
    stem, image = ConvPatches(8, 4, 16).eval(), noise(1, 3, height, width).requires_grad_()
    found = stem(image)
    assert found.shape == (1, -(-height // 8), -(-width // 8), 16)
    found[0, 0, 0].square().sum().backward()
    assert image.grad is not None
    touched = image.grad[0].abs().amax(0) > 0
    # pixels 0 to 7 of the patch; the second convolution adds 2 of them (1 at half the size), the first one 3 more
    reach = 8 - 2 + 2 + 3 + 1
    assert touched[:reach, :reach].all() and not touched[reach:].any() and not touched[:, reach:].any()


@pytest.mark.parametrize("changes, says", [({"plain": 4}, "plain=4"), ({"plain": -1}, "plain=-1"),
                                           ({"scale": 0.0}, "scale"), ({"patch": 7, "stem": 4}, "patch=7")])
def test_settings_that_do_not_fit_are_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ModelError, match=says):
        small(**changes)


def test_born_as_published() -> None:
    torch.manual_seed(0)
    model = deepvit.deepvit_s(depth=3, plain=1)
    for linear in (m for m in model.modules() if isinstance(m, nn.Linear)):
        assert linear.weight.std().item() == pytest.approx(0.02, rel=0.05) and not linear.bias.any()
    for tensor in (model.position.table, model.prefix.tokens):
        assert tensor.std().item() == pytest.approx(0.02, rel=0.15)
    mixer: Any = model.blocks[-1].mix.fn
    bound = 1 / math.sqrt(12)                   # a 1 x 1 convolution's default: uniform within 1/√(fan-in)
    assert mixer.theta.abs().max() <= bound and mixer.theta.std().item() == pytest.approx(bound / 3 ** 0.5, rel=0.15)
    assert (mixer.norm.weight == 1).all() and not mixer.norm.bias.any() and not mixer.offset.any()
