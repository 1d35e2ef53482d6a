"""CoAtNet: where it convolves and where it attends, the bias of an offset, where it strides, and what it costs."""
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import vitrail
from tests.backbones.made import noise, seeded
from vitrail.backbones import coatnet
from vitrail.backbones.coatnet import CoAtNet, Entrance, MBConv, RelativeAttention
from vitrail.core.catalogue import variant_of
from vitrail.core.errors import CheckpointError, ModelError
from vitrail.measure.operations import multiply_adds
from vitrail.nn import OffsetBias

SIZES = tuple(f"coatnet_{i}" for i in range(8))


def small(**changes: Any) -> CoAtNet:
    return seeded(CoAtNet(**{"image": 64, "stem": 8, "dims": (8, 12, 16, 24), "depths": (1, 1, 2, 1),
                             "heads": (0, 0, 2, 3), **changes}))


def test_attention_adds_one_bias_an_offset() -> None:
    mixer, (h, w), x = seeded(RelativeAttention(6, 8, 2, (3, 4))), (3, 4), noise(1, 3, 4, 6)
    q, k, v = mixer.qkv(x).flatten(1, 2).unflatten(-1, (3, 2, 4))[0].unbind(1)              # (N, heads, D)
    table = mixer.bias.table.unflatten(0, (2 * h - 1, 2 * w - 1))
    out = torch.zeros(h * w, 2, 4)
    for i in range(h * w):
        for head in range(2):
            scores = torch.stack([q[i, head] @ k[j, head] / 2
                                  + table[i // w - j // w + h - 1, i % w - j % w + w - 1, head] for j in range(h * w)])
            out[i, head] = scores.softmax(0) @ v[:, head]
    torch.testing.assert_close(mixer(x)[0].flatten(0, 1), mixer.out.proj(out.flatten(1)))


def test_a_table_is_stretched_over_larger_maps_and_itself_at_home() -> None:
    bias = OffsetBias((3, 3), 1)
    with torch.no_grad():                                           # each offset's row difference, -2 to 2
        bias.table.copy_(torch.arange(-2.0, 3)[:, None].expand(5, 5).reshape(25, 1))
    own = bias(3, 3)[0].unflatten(0, (3, 3)).unflatten(2, (3, 3))
    assert torch.equal(own[:, 1, :, 0], torch.tensor([[0.0, -1, -2], [1, 0, -1], [2, 1, 0]]))
    large = bias(6, 3)[0].unflatten(0, (6, 3)).unflatten(2, (6, 3))[:, 0, :, 0]
    within = slice(1, 5)                                            # the ends of the table are held beyond its middle
    expected = (torch.arange(6.0)[:, None] - torch.arange(6.0)) * 5 / 11
    torch.testing.assert_close(large[within, within], expected[within, within])
    torch.testing.assert_close(large, -large.T)                     # an offset and its opposite stay so


def test_a_released_table_of_another_size_fits_or_is_refused() -> None:
    bias = OffsetBias((4, 4), 2)
    table = noise(25, 2)
    with torch.no_grad():
        bias.table.copy_(bias.fit(table))
    torch.testing.assert_close(bias(3, 3).shape, torch.Size((2, 9, 9)))
    here = OffsetBias((3, 3), 2)
    here.table.data.copy_(table)
    torch.testing.assert_close(bias(4, 4), here(4, 4))              # stretched once and kept, or at each call
    for wrong in (noise(25, 3), noise(24, 2), noise(16, 2)):
        with pytest.raises(CheckpointError, match="offsets"):
            bias.fit(wrong)


def test_the_convolutional_stages_see_near_and_the_others_everything() -> None:
    model, image = small(), noise(1, 3, 128, 128).requires_grad_()
    for block in [m for m in model.modules() if isinstance(m, MBConv)]:
        setattr(block, "squeeze", nn.Identity())                    # noqa: B010   (its gate looks at the whole map)
    for map_, everywhere in zip(model(image).maps, (False, False, True, True), strict=True):
        (grad,) = torch.autograd.grad(map_[0, 0, 0].square().sum(), image, retain_graph=True)
        assert bool(grad[0, :, 96:, 96:].any()) == everywhere


def test_where_a_block_strides() -> None:
    early, late = (MBConv(8, 8, 2, 0.0, mlp_ratio=4.0, late=late) for late in (False, True))
    for block, widen, filter_ in ((early, 2, 1), (late, 1, 2)):
        strides = [m.stride[0] for m in block.modules() if isinstance(m, nn.Conv2d)]
        assert strides[:2] == [widen, filter_]
        assert block(noise(2, 5, 7, 8)).shape == (2, 3, 4, 8)


def test_maxima_shrink_the_map_on_both_ways() -> None:
    seen: list[Tensor] = []

    class Same(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x)
            return x
    entrance, x = Entrance(Same(), 4, 4, 2, 0.0), noise(1, 3, 4, 4)
    out = entrance(x)
    normed = entrance.norm(x)
    top = normed[0, :2, :2].amax((0, 1))
    torch.testing.assert_close(seen[0][0, 0, 0], top)
    torch.testing.assert_close(out[0, 0, 0], x[0, :2, :2].amax((0, 1)) + top)
    torch.testing.assert_close(out[0, 1, 1], x[0, 2, 2:].amax(0) + normed[0, 2, 2:].amax(0))    # an odd row remains


def test_a_stage_of_two_kinds_gives_one_map() -> None:
    model = small(dims=(8, 8, 12, 16, 24), depths=(1, 1, 1, 2, 1), heads=(0, 0, 0, 2, 3), stride=(2, 2, 2, 1, 2))
    assert (model.channels, model.strides) == ((8, 8, 16, 24), (4, 8, 16, 32))
    assert [m.shape[1:] for m in model(noise(1, 3, 70, 50)).maps] == [(18, 13, 8), (9, 7, 8), (5, 4, 16), (3, 2, 24)]
    assert variant_of("coatnet_6").settings()["heads"] == (0, 0, 0, 12, 16)


def test_table_3_and_the_sizes_of_heads() -> None:
    head = (32, 32, 32, 32, 32, 64, 128, 128)
    for name, size in zip(SIZES, head, strict=True):
        found = variant_of(name).settings()
        assert {d // h for d, h in zip(found["dims"], found["heads"], strict=True) if h} == {size}


@pytest.mark.parametrize("name", SIZES)
def test_it_costs_what_the_paper_says(name: str) -> None:
    figures = variant_of(name).figures
    share = figures.params / 1e6 / figures.reported["params_m"]
    assert (0.993 < share < 1.007) == (name != "coatnet_6"), "table 12 contradicts table 5"
    if "gflops" in figures.reported:
        assert figures.gflops == pytest.approx(figures.reported["gflops"], rel=0.02)


def test_the_sixth_size_would_have_its_parameters_with_a_wider_last_stage() -> None:
    with torch.device("meta"):
        wide = vitrail.create_model("coatnet_6", dims=(192, 384, 768, 1536, 3072), heads=(0, 0, 0, 12, 24))
    assert round(sum(p.numel() for p in wide.parameters()) / 1e7) == 147


def test_born_as_said() -> None:
    torch.manual_seed(0)
    model = coatnet.coatnet_0(depths=(1, 1, 1, 1))
    for block in (m for m in model.modules() if isinstance(m, MBConv)):
        depthwise, widen = block.filter.get_submodule("conv"), block.widen.get_submodule("conv")
        for conv, fan_out in ((depthwise, 9), (widen, len(widen.weight))):      # type: ignore[arg-type]
            assert conv.weight.std().item() == pytest.approx(math.sqrt(2 / fan_out), rel=0.05)  # type: ignore
        assert block.narrow.bias is not None and not block.narrow.bias.any()
    for mixer in (m for m in model.modules() if isinstance(m, RelativeAttention)):
        bound = math.sqrt(6 / sum(mixer.qkv.weight.shape))
        assert mixer.qkv.weight.abs().max().item() == pytest.approx(bound, rel=0.01) and not mixer.qkv.bias.any()
        assert mixer.bias.table.std().item() == pytest.approx(0.02, rel=0.1)


@pytest.mark.parametrize("changes", [{"heads": (0, 0, 2)}, {"stride": (1, 2, 2, 2)}, {"depths": (1, 1, 0, 1)},
                                     {"heads": (0, 0, 3, 3)}])
def test_settings_that_do_not_fit_together_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match="stage|heads"):
        small(**changes)


@pytest.mark.parametrize(("name", "gflops"), [("coatnet_0", 4.6), ("coatnet_1", 8.8), ("coatnet_2", 16.6)])
def test_what_strides_late_costs_what_table_9_says(name: str, gflops: float) -> None:
    with torch.device("meta"):
        late = vitrail.create_model(name, strided_depthwise=True)
        found = multiply_adds(lambda: late(torch.empty(1, 3, 224, 224))) / 1e9
    assert sum(p.numel() for p in late.parameters()) == variant_of(name).figures.params
    assert found == pytest.approx(gflops, rel=0.02)
