"""BoTNet: the attention as its equation says, where it strides, what a T-model weighs, how it is born."""
import math
from typing import Any

import pytest
import torch
from torch import nn

import vitrail
from vitrail.backbones.botnet import BoTNet, BottleneckAttention
from vitrail.backbones.resnet import Bottleneck
from vitrail.core.errors import ModelError
from vitrail.nn import AvgPool, Conv, SqueezeExcite


def small(**changes: Any) -> BoTNet:
    torch.manual_seed(0)
    return BoTNet(**{"image": 64, "dim": 8, "depths": (1, 1, 1, 2), "heads": 2, **changes}).eval()


def blocks(model: nn.Module) -> list[Bottleneck]:
    return [m for m in model.modules() if isinstance(m, Bottleneck)]


def test_it_is_the_papers_equation() -> None:
    """Both terms are scaled (timm's default scales one); an offset's vector is that of its row plus its column's."""
    torch.manual_seed(0)
    h, w, mixer = 3, 4, BottleneckAttention(12, 2, grid=(3, 4))
    nn.init.normal_(mixer.qkv.proj.weight)
    x, places = torch.randn(1, h, w, 12), [(y, x) for y in range(h) for x in range(w)]
    q, k, v = (t[0] for t in mixer.qkv(x.flatten(1, 2)))                # (H, N, D)
    r = torch.stack([torch.stack([mixer.position.rows[b[0] - a[0] + h - 1] + mixer.position.columns[b[1] - a[1] + w - 1]
                                  for b in places]) for a in places])   # (N, N, D)
    weights = ((q @ k.mT + torch.einsum("hnd,nmd->hnm", q, r)) / math.sqrt(6)).softmax(-1)
    torch.testing.assert_close(mixer(x)[0].flatten(0, 1), (weights @ v).transpose(0, 1).flatten(1))


def test_every_place_sees_every_other_in_the_last_stage_alone() -> None:
    model = small(last_stride=2)
    for block in blocks(model):
        nn.init.ones_(block.norm3.weight)
    *convolutional, first, _ = blocks(model)
    for block, whole in ((convolutional[-1], False), (first, True)):
        x = torch.randn(1, 8, 8, block.conv1.in_channels, requires_grad=True)
        block(x)[0, 0, 0].square().sum().backward()
        assert x.grad is not None and bool((x.grad.abs().sum(-1) > 0).all()) == whole


@pytest.mark.parametrize("last_stride, strides, pools", [(1, (4, 8, 16, 16), 0), (2, (4, 8, 16, 32), 1)])
@pytest.mark.parametrize("height, width", [(64, 64), (61, 97), (1, 1)])
def test_the_last_stage_strides_by_a_mean_behind_its_attention(last_stride: int, strides: tuple[int, ...], pools: int,
                                                               height: int, width: int) -> None:
    model = small(last_stride=last_stride)
    assert model.strides == strides and sum(isinstance(m, AvgPool) for m in model.modules()) == pools
    for found, stride in zip(model(torch.randn(1, 3, height, width)).maps, strides, strict=True):
        assert found.shape[1:3] == (-(-height // stride), -(-width // stride))


def test_tables_are_of_the_map_that_each_block_attends() -> None:
    tables = [(len(m.position.rows), len(m.position.columns)) for m in small(last_stride=2, image=(64, 100)).modules()
              if isinstance(m, BottleneckAttention)]
    assert tables == [(7, 13), (3, 7)]                              # 4 x 7 places, then 2 x 4


def test_resampled_tables_of_another_size_are_still_of_offsets() -> None:
    """Resampled tables that rise evenly with the offset still do, in the middle of the span."""
    mixer = BottleneckAttention(8, 2, grid=(8, 8))
    with torch.no_grad():
        mixer.position.columns.copy_(torch.arange(15.)[:, None].expand(15, 4) - 7)
    found = mixer.position.fit(mixer.position.columns, 16)[:, 0]
    assert len(found) == 31 and found[15].abs() < 1e-5
    steps = found.diff()[5:-5]
    torch.testing.assert_close(steps, torch.full_like(steps, 15 / 31), atol=1e-3, rtol=0)


def test_a_projected_way_past_attention_is_activated_and_no_other() -> None:
    for model in (small(), small(squeeze=True)):
        last = [block.shortcut for block in model.stages[-1].children()]
        assert [name for name, _ in last[0].named_children()] == ["conv", "norm", "act"]
        assert isinstance(last[1], nn.Identity)
        for stage in list(model.stages)[:-1]:
            assert [name for name, _ in next(stage.children()).shortcut.named_children()] == ["conv", "norm"]


def test_a_t_model_weighs_its_convolutional_blocks_alone_and_knows_no_relu_outside_the_gates() -> None:
    model = small(squeeze=True)
    assert [isinstance(b.squeeze, SqueezeExcite) for b in blocks(model)] == [True, True, True, False, False]
    assert [b.squeeze.reduce.out_channels for b in blocks(model)[:3]] == [2, 4, 8]             # a sixteenth
    assert isinstance(model.patch_embed.act, nn.SiLU) and all(isinstance(b.act, nn.SiLU) for b in blocks(model))
    assert not any(isinstance(m, SqueezeExcite | nn.SiLU) for m in small().modules())


def test_sizes_are_the_papers_once_the_missing_gates_are_counted() -> None:
    for name in vitrail.list_models("botnet*"):
        variant = vitrail.card(name).variant
        settings, figures = variant.settings(), variant.figures
        gates = settings["depths"][-1] * 2 * 2048 * 128 if settings["squeeze"] else 0
        assert (figures.params + gates) / 1e6 == pytest.approx(figures.reported["params_m"], rel=0.006), name


def test_a_stride_that_is_none_is_refused() -> None:
    with pytest.raises(ModelError, match="1 or 2"):
        small(last_stride=4)


def test_born_as_published() -> None:
    torch.manual_seed(0)
    model = vitrail.create_model("botnet_s1_50", depths=(1, 1, 1, 1)).backbone
    for i, stage in enumerate(model.get_submodule("stages").children()):
        for name, part in stage.named_modules():
            if isinstance(part, Conv):
                fan = part.weight[0].numel() if i == 3 else part.weight[:, 0].numel()          # the gist's: fan-in
                assert part.weight.std().item() == pytest.approx(math.sqrt(2 / fan), rel=0.05), name
            elif isinstance(part, BottleneckAttention):
                assert part.qkv.proj.weight.std().item() == pytest.approx(0.01, rel=0.02) and part.qkv.proj.bias is None
                assert part.position.rows.std().item() == pytest.approx(128 ** -0.5, rel=0.1)
            elif isinstance(part, Bottleneck):
                assert not part.norm3.weight.any()
