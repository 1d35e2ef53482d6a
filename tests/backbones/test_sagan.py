"""SAGAN's discriminator: where it attends, its norms of one, what is rectified, how it is initialised and
recomputed."""
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

import vitrail
from vitrail.attention.sagan import Sagan
from vitrail.backbones.sagan import Discriminator, FirstBlock, HalvingBlock, sum_map
from vitrail.core.errors import ModelError
from vitrail.nn import Features, Stack


def small(dim: int = 8, attention_stage: int = 1) -> Discriminator:
    torch.manual_seed(0)
    return Discriminator(dim=dim, attention_stage=attention_stage).eval()


@pytest.mark.parametrize("height, width", [(128, 128), (61, 35), (1, 1)])
def test_any_size_is_halved_upwards(height: int, width: int) -> None:
    model = small()
    for found, channels, stride in zip(model(torch.randn(2, 3, height, width)).maps, model.channels, model.strides,
                                       strict=True):
        assert found.shape == (2, math.ceil(height / stride), math.ceil(width / stride), channels)


@pytest.mark.parametrize("attention_stage, places", [(0, 64), (1, 32)])
def test_it_attends_on_the_map_of_its_name(attention_stage: int, places: int) -> None:
    model, seen = small(attention_stage=attention_stage), []
    for part in model.modules():
        if isinstance(part, Sagan):
            part.register_forward_hook(lambda module, args, out: seen.append(out.shape[1:3]))
    model(torch.randn(1, 3, 128, 128))
    assert seen == [(places, places)]


def test_a_stage_that_is_not_there_is_refused() -> None:
    with pytest.raises(ModelError, match="stages are 0 to 4"):
        small(attention_stage=5)


def test_born_without_attention_and_with_a_far_reach_once_its_gain_moves() -> None:
    model, image = small(), torch.randn(1, 3, 128, 128, requires_grad=True)
    reach = []
    for gain in (0.0, 1.0):
        nn.init.constant_(model.get_parameter("stages.1.attention.fn.gain"), gain)
        grad = torch.autograd.grad(model(image).maps[1][0, 0, 0].sum(), image)[0]
        reach.append(bool(grad[..., 64:, 64:].any()))
    assert reach == [False, True]


def test_every_matrix_has_norm_one_and_the_readout_is_free() -> None:
    model = small()
    normed = [m for m in model.modules() if is_parametrized(m)]
    assert len(normed) == 3 * 5 + 2 + 4
    assert all(is_parametrized(m) for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear)))
    model.train()
    for _ in range(50):
        for part in normed:
            assert isinstance(part.weight, Tensor)
    model.eval()
    for part in normed:
        assert isinstance(part.weight, Tensor)
        assert float(torch.linalg.matrix_norm(part.weight.detach().flatten(1), 2)) == pytest.approx(1, abs=0.02)
    assert not is_parametrized(model.make_head(3).get_submodule("linear"))


def test_the_image_is_not_rectified_and_later_maps_are() -> None:
    """Before its branch: -x and a negative x are two things to the first block's branch, and nothing to the others'."""
    torch.manual_seed(0)
    x = -torch.rand(1, 4, 4, 3)
    for block, changes in ((FirstBlock(3, 4), True), (HalvingBlock(3, 4), False)):
        block.eval()
        branches = [block(by * x) - block.pool(block.shortcut(by * x)) for by in (1, 2)]
        assert torch.allclose(branches[0], branches[1], atol=1e-6) != changes


def test_the_last_map_is_rectified_and_summed() -> None:
    last = small()(torch.randn(2, 3, 64, 64)).maps[-1]
    assert bool((last >= 0).all()) and bool((last == 0).any())
    torch.testing.assert_close(sum_map(Features(maps=(last,))), last.mean((1, 2)) * 4)


def test_a_checkpointed_step_is_the_same_step() -> None:
    """Made again in the backward pass, a block must start its power iteration where it did, and end it once."""
    grads: list[list[Tensor]] = []
    vectors: list[list[Tensor]] = []
    for on in (False, True):
        model = small().train()
        for part in model.modules():
            if isinstance(part, Stack):
                part.checkpointing = on
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.3)
        torch.manual_seed(1)
        model(torch.randn(2, 3, 32, 32)).maps[-1].square().sum().backward()
        grads.append([p.grad for p in model.parameters() if p.grad is not None])
        vectors.append(list(model.buffers()))
    assert len(grads[0]) == len(grads[1]) > 0
    assert all(torch.equal(a, b) for a, b in zip(grads[0] + vectors[0], grads[1] + vectors[1], strict=True))


def test_born_xavier_uniform() -> None:
    torch.manual_seed(0)
    model = vitrail.create_model("sagan_discriminator", dim=16).backbone
    for name, weight in model.named_parameters():
        if name.endswith("original") and weight.numel() > 500:
            outs, ins = weight.shape[0] * weight[0, 0].numel(), weight[0].numel()
            deviation = math.sqrt(2 / (ins + outs))
            assert weight.std().item() == pytest.approx(deviation, rel=0.15), name
            assert weight.abs().max().item() <= math.sqrt(3) * deviation + 1e-6, name
        elif name.endswith("bias"):
            assert not weight.any(), name
