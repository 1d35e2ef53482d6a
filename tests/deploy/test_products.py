"""Linear layers and convolutions in native kernels answer like torch, at every shape."""
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import vitrail
from tests.contracts.small import build as small
from tests.deploy.test_native import NEAR, TYPES, needed, skip_without
from tests.deploy.test_optimize import apart, noise, plan_of
from vitrail.deploy.cpu.native import depthwise, linear
from vitrail.deploy.cpu import int8
from vitrail.deploy.cpu.convolutions import places
from vitrail.deploy.cpu.graph import calls

ACTS: dict[str, Callable[[Tensor], Tensor]] = {"none": lambda x: x, "relu": F.relu, "gelu": F.gelu, "swish": F.silu}


def near(found: Tensor, expected: Tensor, dtype: torch.dtype) -> bool:
    return bool((found - expected).abs().max() <= NEAR[dtype] * expected.abs().max())


@needed
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("act", list(ACTS))
@pytest.mark.parametrize(("M", "K", "N"), [(1, 2, 1), (5, 36, 20), (13, 64, 64), (200, 24, 96), (37, 130, 200),
                                           (800, 32, 112), (3, 512, 1000)])
def test_linear(M: int, K: int, N: int, act: str, dtype: torch.dtype) -> None:
    skip_without(linear, dtype)
    x, weight, bias, other = (noise(*s, seed=i).to(dtype) for i, s in enumerate(((M, K), (N, K), (N,), (M, N))))
    packed = linear.packed(weight)
    plain = ACTS[act](F.linear(x.double(), weight.double(), bias.double()))
    assert near(linear.linear(x, packed, N, bias.float(), act), plain, dtype)
    assert near(linear.linear(x, packed, N, bias.float(), act, other), plain + other.double(), dtype)
    assert near(linear.linear(x, packed, N, None, act), ACTS[act](F.linear(x.double(), weight.double())), dtype)


@needed
@pytest.mark.parametrize("dtype", TYPES)
def test_linear_of_rows_that_lie_anywhere(dtype: torch.dtype) -> None:
    skip_without(linear, dtype)
    whole, weight = noise(4, 9, 7, 80).to(dtype), noise(30, 40, seed=1).to(dtype)
    for x in (whole[..., 20:60], whole[:, ::2, :, 40:], whole[:, 3:4, :, 1:41], whole[..., ::2],
              noise(4, 40, 9).to(dtype).transpose(1, 2)):
        found = linear.linear(x, linear.packed(weight), 30)
        assert found.is_contiguous() and near(found, F.linear(x.double(), weight.double()), dtype)


@needed
def test_activations_at_all_numbers() -> None:
    x = torch.cat([torch.linspace(-12, 12, 40001), torch.tensor([-1e30, -100.0, -0.0, 100.0, 1e30])])[:, None]
    for act, plain in ACTS.items():
        found = linear.linear(x, linear.packed(torch.ones(1, 1)), 1, None, act)
        assert ((found - plain(x.double())).abs() <= 2e-6 * x.double().abs().clamp_min(1)).all(), act
    lost = torch.full((3, 4), torch.nan)
    for act in ACTS:
        assert linear.linear(lost, linear.packed(torch.ones(20, 4)), 20, None, act).isnan().all()


@needed
@pytest.mark.parametrize(("M", "K", "N"), [(1, 4, 1), (13, 64, 50), (300, 384, 96)])
@pytest.mark.parametrize("act", list(ACTS))
def test_linear_of_bytes(M: int, K: int, N: int, act: str) -> None:
    """Sums of whole numbers are exact; what becomes of them is rounded once."""
    skip_without(linear, torch.uint8)
    drawn = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (M, K), generator=drawn, dtype=torch.uint8)
    weight = torch.randint(-127, 128, (N, K), generator=drawn, dtype=torch.int8)
    scale, bias = noise(N).abs() / K / 1000, noise(N, seed=1)
    plain = ACTS[act](F.linear(x.double(), weight.double()) * scale.double() + bias.double())
    given = (x, linear.packed(weight), N, bias, act)
    for dtype in TYPES:
        other = noise(M, N, seed=2).to(dtype)
        found = linear.linear(*given, other, scale=scale, dtype=dtype)
        assert found.dtype == dtype and near(found, plain + other.double(), dtype)
    found = linear.linear(*given, scale=scale, step=(0.02, 100))
    assert found.dtype == torch.uint8
    assert (found - (plain / 0.02 + 100).clamp(0, 255)).abs().max() <= 0.5 + 1e-3


@needed
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("C", "N", "side", "stride", "padding", "dilation"), [
    (16, 20, 3, 1, 1, 1), (32, 64, 3, 2, 1, 1), (18, 33, 5, 1, 0, 1), (16, 16, 3, 1, 2, 2), (24, 40, 2, 2, 0, 1),
    (16, 8, 1, 3, 0, 1), (64, 130, 7, 4, 3, 1)])
def test_convolutions_through_an_index(C: int, N: int, side: int, stride: int, padding: int, dilation: int,
                                       dtype: torch.dtype) -> None:
    skip_without(linear, dtype)
    x, weight, bias = noise(3, C, 9, 14).to(dtype), noise(N, C, side, side, seed=1).to(dtype), noise(N, seed=2)
    expected = F.conv2d(x.double(), weight.double(), bias.double(), stride, padding, dilation)
    index = places((9, 14), weight, *([n, n] for n in (stride, padding, dilation)))
    found = linear.linear(x.permute(0, 2, 3, 1), linear.packed(weight.permute(0, 2, 3, 1).flatten(1, 2)), N, bias,
                          index=index, image=9 * 14, shape=(3, *expected.shape[2:], N))
    assert near(found.permute(0, 3, 1, 2), expected, dtype)


@needed
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("H", "W", "C"), [(1, 1, 3), (2, 5, 16), (7, 9, 40), (14, 14, 100), (3, 30, 64)])
def test_depthwise(H: int, W: int, C: int, dtype: torch.dtype) -> None:
    skip_without(depthwise, dtype)
    x, weight = noise(2, H, W, C).to(dtype), noise(C, 1, 3, 3, seed=1)
    bias, scale, shift = noise(3, C, seed=2).unbind()
    filters = weight.flatten(1).T.contiguous()
    for stride in depthwise.STRIDES:
        for padding in (0, 1, 2):
            if min(H, W) + 2 * padding < 3:
                continue
            plain = F.conv2d(x.double().permute(0, 3, 1, 2), weight.double(), bias.double(), stride, padding, groups=C)
            plain = plain.permute(0, 2, 3, 1)
            other = noise(*plain.shape, seed=3).to(dtype)
            for act, by in ACTS.items():
                found = depthwise.depthwise(x, filters, bias, act, None, None, stride, padding)
                assert near(found, by(plain), dtype)
                found = depthwise.depthwise(x, filters, bias, act, (scale, shift), other, stride, padding)
                assert near(found, by(plain) * scale.double() + shift.double() + other.double(), dtype)
                found = depthwise.depthwise(x, filters, bias, act, None, None, stride, padding, (0.05, 100))
                assert found.dtype == torch.uint8
                assert (found - (by(plain) / 0.05 + 100).clamp(0, 255)).abs().max() <= 0.5 + NEAR[dtype] / 0.05


@needed
def test_the_count_of_threads_changes_nothing() -> None:
    x, weight, filters = noise(2, 40, 40, 64), linear.packed(noise(96, 64)), noise(9, 64)
    before, found = torch.get_num_threads(), []
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            found.append((linear.linear(x, weight, 96), depthwise.depthwise(x, filters)))
    finally:
        torch.set_num_threads(before)
    for one, other in (found[:2], found[1:]):
        assert all(map(torch.equal, one, other))


@needed
@pytest.mark.parametrize("name", ["deit_ti16", "pvt_v2_b2_li", "swin_t", "pvt_v2_b0"])
def test_what_is_moved_is_read_where_it_was(name: str) -> None:
    """Patches of an image by pieces of their lines, windows by tokens, what is reduced by rows of neighbours."""
    model = small(name)
    made = vitrail.optimize(model, noise(3, 3, 64, 96))
    plan = plan_of(made)
    read = {node.kwargs["index"]: node for node in plan.graph.nodes
            if node.target is linear.linear and "index" in node.kwargs}
    sizes = {tuple(index.meta["val"].shape) for index in read}
    if name == "deit_ti16":
        assert sizes == {(24, 48)}, "24 patches of 3 x 16 lines"
        (node,) = read.values()
        assert node.kwargs["image"] == 3 * 64 * 96 // 16
    else:
        assert sizes
    assert not any(node.target is torch.ops.aten.index_select.default for node in plan.graph.nodes)
    assert apart(model, made, noise(3, 3, 64, 96, seed=1)) <= 1e-5


@needed
def test_tiles_of_the_processor_are_left_to_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "tiles", lambda: True)
    fresh = linear.available.__wrapped__
    assert fresh(torch.float32) and not fresh(torch.bfloat16) and not fresh(torch.uint8)


@needed
def test_what_stands_behind_a_convolution_is_taken_in() -> None:
    for name, told in (("xcit_nano_12_p16", {"depthwise with batch norm": 2, "depthwise with residual": 2}),
                       ("pvt_v2_b0", {"depthwise in a native kernel": 8}),
                       ("mobilevit_xxs", {"convolution in a native kernel": 6}),
                       ("twins_svt_s", {"depthwise with residual": 4})):
        model, image = small(name), noise(2, 3, 64, 96)
        made = vitrail.optimize(model, image)
        assert not made.report.left and {key: made.report.rewritten[key] for key in told} == told, name
        assert apart(model, made, noise(2, 3, 64, 96, seed=1)) <= 1e-5


@needed
@pytest.mark.parametrize("name", ["deit_ti16", "pvt_v2_b0"])
def test_native_kernels_round_what_they_answer(name: str) -> None:
    """What is read as bytes alone is written as bytes: only the image is rounded by itself."""
    if not linear.available(torch.uint8):
        pytest.skip("no kernel for bytes here")
    plan = plan_of(vitrail.optimize(small(name), noise(2, 3, 64, 64), precision="int8"))
    assert sum(node.kwargs.get("step") is not None for node in plan.graph.nodes) >= 4
    for node in calls(plan.graph, int8.quantise):
        assert node.args[0].target not in int8.NATIVE or len(node.args[0].users) > 1
