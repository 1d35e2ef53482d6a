"""Swin: what is true of windows, shifts, the bias of offsets, merging, and of the network built from them."""
import math

import pytest
import torch
from torch import Tensor, nn

import vitrail
from vitrail.backbones.swin import PatchMerging, Swin, WindowAttention
from vitrail.core.errors import ModelError
from vitrail.nn import Attend, DropPath, RelativeBias, SelfAttention, Windows
from vitrail.ops.windows import shift_mask

# height, width of a map in windows of 4: divided, padded, one window high, smaller than a window
MAPS = [(8, 12), (6, 9), (4, 10), (3, 9), (3, 2)]


def band(at: int, length: int, size: int, shift: int) -> int:
    """Which window holds a row (or column) once the borders have moved by shift; nothing wraps around."""
    return (at - (shift if length > size else 0)) // size


def together(a: tuple[int, int], b: tuple[int, int], H: int, W: int, size: int, shift: int) -> bool:
    return (band(a[0], H, size, shift) == band(b[0], H, size, shift)
            and band(a[1], W, size, shift) == band(b[1], W, size, shift))


def attention(shift: int, *, dim: int = 8, heads: int = 2, size: int = 4) -> WindowAttention:
    torch.manual_seed(0)
    mix = WindowAttention(dim, heads, Windows(size, shift)).eval()
    for p in mix.parameters():
        nn.init.normal_(p, std=0.5)
    return mix


def small(**changes: object) -> Swin:
    torch.manual_seed(0)
    return Swin(**{"dim": 8, "depths": (2, 2, 2), "heads": (1, 2, 4), "window": 4, **changes}).eval()     # type: ignore[arg-type]


@pytest.mark.parametrize("shift", [0, 2, 1])
@pytest.mark.parametrize("H, W", MAPS)
def test_a_token_sees_its_window_and_no_other(H: int, W: int, shift: int) -> None:
    mix, x = attention(shift), torch.randn(1, H, W, 8)
    places = [(y, x) for y in range(H) for x in range(W)]
    moved = x.repeat(len(places), 1, 1, 1)                  # one map for each place, changed there alone
    for i, (row, column) in enumerate(places):
        moved[i, row, column] += 3 * torch.randn(8)
    with torch.no_grad():
        change = (mix(moved) - mix(x)).abs().amax(-1)
    for i, place in enumerate(places):
        for other in places:
            seen = bool(change[i][other] > 1e-4)
            assert seen == together(place, other, H, W, 4, shift), (place, other)


@pytest.mark.parametrize("shift", [0, 2])
@pytest.mark.parametrize("H, W", MAPS)
def test_equals_one_masked_attention_over_the_whole_padded_map(H: int, W: int, shift: int) -> None:
    mix, x = attention(shift), torch.randn(2, H, W, 8)
    h, w = math.ceil(H / 4) * 4, math.ceil(W / 4) * 4
    padded = torch.zeros(2, h, w, 8)
    padded[:, :H, :W] = x
    places = [(y, x) for y in range(h) for x in range(w)]
    bias = torch.full((2, len(places), len(places)), float("-inf"))
    for i, a in enumerate(places):
        for j, b in enumerate(places):
            if together(a, b, h, w, 4, shift):
                bias[:, i, j] = mix.bias.table[(a[0] - b[0] + 3) * 7 + a[1] - b[1] + 3]
    with torch.no_grad():
        q, k, v = mix.qkv(padded.flatten(1, 2))
        weights = (q.double() @ k.double().mT / 2 + bias).softmax(-1)
        expected = mix.out((weights @ v.double()).float()).view(2, h, w, 8)[:, :H, :W]
        assert torch.allclose(mix(x), expected, atol=1e-5)


@pytest.mark.parametrize("H, W, shift", [(8, 12, (2, 2)), (8, 8, (1, 3)), (4, 8, (0, 2)), (12, 4, (2, 0))])
def test_the_mask_parts_what_the_roll_brought_together(H: int, W: int, shift: tuple[int, int]) -> None:
    mask = shift_mask(H, W, 4, shift, torch.zeros(()))
    assert mask.shape == (H * W // 16, 16, 16)
    for g in range(len(mask)):
        top, left = g // (W // 4) * 4, g % (W // 4) * 4
        rolled = [((top + n // 4 + shift[0]) % H, (left + n % 4 + shift[1]) % W) for n in range(16)]
        for i, a in enumerate(rolled):
            for j, b in enumerate(rolled):
                near = all((p - s) // 4 == (q - s) // 4 for p, q, s in zip(a, b, shift, strict=True))
                assert mask[g, i, j] == (0.0 if near else float("-inf"))


def test_the_bias_of_a_pair_is_the_tables_entry_for_its_offset() -> None:
    bias = RelativeBias(3, 2)
    nn.init.normal_(bias.table)
    table, made = bias.table.view(5, 5, 2), bias()
    for i in range(9):
        for j in range(9):
            dy, dx = i // 3 - j // 3, i % 3 - j % 3
            assert torch.equal(made[:, i, j], table[dy + 2, dx + 2])


@pytest.mark.parametrize("shift", [0, 2])
def test_one_window_over_the_whole_map_is_plain_attention(shift: int) -> None:
    mix = attention(shift, size=6)
    nn.init.zeros_(mix.bias.table)
    plain = SelfAttention(8, 2)
    plain.load_state_dict({k: v for k, v in mix.state_dict().items() if not k.startswith("bias")})
    x = torch.randn(2, 6, 6, 8)
    assert torch.allclose(mix(x).flatten(1, 2), plain(x.flatten(1, 2)), atol=1e-6)


@pytest.mark.parametrize("B", [1, 3])
@pytest.mark.parametrize("shift", [0, 2])
@pytest.mark.parametrize("H, W", MAPS)
def test_moving_tokens_by_an_index_equals_rolling_and_is_undone(H: int, W: int, shift: int, B: int) -> None:
    groups, x = Windows(4, shift), torch.randn(B, H, W, 5)
    rolled = groups.split(x.clone().requires_grad_())       # where gradients flow, maps are rolled
    with torch.no_grad():
        taken = groups.split(x)
        back = groups.merge(taken, H, W)
    assert torch.equal(taken, rolled) and torch.equal(back, x)
    assert torch.equal(groups.merge(rolled, H, W), x)


def test_merging_takes_four_neighbours_rows_first() -> None:
    down = PatchMerging(2)
    with torch.no_grad():
        down.reduce.weight.copy_(torch.eye(8)[:4])
    down.norm = nn.Identity()                               # type: ignore[assignment]
    x = torch.randn(1, 4, 6, 2)
    assert torch.equal(down(x)[0, 1, 2], torch.cat([x[0, 2, 4], x[0, 3, 4]]))
    with torch.no_grad():
        down.reduce.weight.copy_(torch.eye(8)[4:])
    assert torch.equal(down(x)[0, 1, 2], torch.cat([x[0, 2, 5], x[0, 3, 5]]))


def test_merging_pads_an_odd_side_with_zeros() -> None:
    down, x = PatchMerging(2), torch.randn(1, 5, 3, 2)
    whole = torch.zeros(1, 6, 4, 2)
    whole[:, :5, :3] = x
    assert down(x).shape == (1, 3, 2, 4) and torch.equal(down(x), down(whole))


@pytest.mark.parametrize("height, width", [(64, 64), (64, 128), (50, 131), (5, 3), (1, 1)])
def test_maps_have_the_widths_and_strides_they_are_said_to_have(height: int, width: int) -> None:
    model = small()
    assert model.channels == (8, 16, 32) and model.strides == (4, 8, 16)
    features = model(torch.randn(2, 3, height, width))
    assert features.prefix is None
    for found, channels, stride in zip(features.maps, model.channels, model.strides, strict=True):
        assert found.shape == (2, math.ceil(height / stride), math.ceil(width / stride), channels)
        assert torch.isfinite(found).all()


def test_the_logits_are_a_linear_function_of_the_mean_of_the_normed_last_map() -> None:
    model = small()
    head, image = model.make_head(5), torch.randn(2, 3, 40, 56)
    features = model(image)
    last = features.maps[-1]
    assert torch.allclose(last.mean(-1), torch.zeros(()), atol=1e-5)            # the last norm's work
    assert torch.allclose(head(features), head.linear(last.flatten(1, 2).mean(1)), atol=1e-6)      # type: ignore[operator]


def test_blocks_take_turns_and_edges_talk_only_inside_the_map() -> None:
    groups = [m.groups for m in small(window=5).modules() if isinstance(m, WindowAttention)]
    assert [g.shift for g in groups] == [0, 2] * 3 and {g.size for g in groups} == {5}


def test_initialisation() -> None:
    torch.manual_seed(0)
    model = vitrail.create_model("swin_t", depths=(2, 2, 2, 2))
    for name, part in model.named_modules():
        if isinstance(part, nn.Linear):
            assert part.weight.std().item() == pytest.approx(0.02, rel=0.05), name
            assert abs(part.weight.mean().item()) < 1e-3, name
            assert part.bias is None or not part.bias.any(), name
        elif isinstance(part, nn.LayerNorm):
            assert part.eps == 1e-5 and (part.weight == 1).all() and not part.bias.any(), name
    tables = torch.cat([m.table.flatten() for m in model.modules() if isinstance(m, RelativeBias)])
    assert tables.std().item() == pytest.approx(0.02, rel=0.02) and abs(tables.mean().item()) < 1e-3


def test_stochastic_depth_grows_linearly_over_all_blocks() -> None:
    drops = [m.p for m in small(drop_path=0.5).modules() if isinstance(m, DropPath)]
    assert drops == pytest.approx([p for i in range(6) for p in (0.1 * i, 0.1 * i)])


def test_gradients_reach_every_bias_also_after_inference_at_the_same_size() -> None:
    model, image = small(), torch.randn(2, 3, 50, 70)
    with torch.inference_mode():
        before = model(image).maps[-1]
    last = model.train()(image).maps[-1]
    last.square().mul(torch.randn(last.shape)).sum().backward()
    assert torch.allclose(last, before, atol=1e-5)
    for name, p in model.named_parameters():
        assert p.grad is not None and p.grad.abs().sum() > 0, name


@pytest.mark.parametrize("grad", [False, True])
def test_watching_shows_the_weights_and_changes_no_bit(grad: bool) -> None:
    model, image, seen = small(), torch.randn(2, 3, 50, 70), list[Tensor]()
    with torch.set_grad_enabled(grad):
        before = model(image).maps[-1]
        for part in model.modules():
            if isinstance(part, Attend):
                part.watched = True
                part.softmax.register_forward_hook(lambda module, inputs, output: seen.append(output))
        after = model(image).maps[-1]
    assert torch.equal(before, after)
    assert [tuple(w.shape[:3]) for w in seen] == [(2, 20, 1)] * 2 + [(2, 6, 2)] * 2 + [(2, 2, 4)] * 2  # (B, G, h, ...)
    assert all(torch.allclose(w.sum(-1), torch.ones(()), atol=1e-5) for w in seen)
    assert (seen[1] == 0).any() and not (seen[0] == 0).any()        # the mask of the shifted windows


def test_the_weights_in_the_path_give_the_fused_answer() -> None:
    model, image = small(), torch.randn(2, 3, 50, 70)
    with torch.no_grad():
        fused = model(image).maps[-1]
        for part in model.modules():
            if isinstance(part, Attend):
                part.fused = False
        assert torch.allclose(model(image).maps[-1], fused, atol=1e-5)


@pytest.mark.parametrize("height, width", [(64, 64), (50, 70)])
def test_exports_and_compiles(height: int, width: int) -> None:
    model = vitrail.create_model("swin_t", dim=8, depths=(2, 2), heads=(1, 2), window=4, classes=5)
    image = torch.randn(2, 3, height, width)
    with torch.no_grad():
        expected = model(image)
        program = torch.export.export(model, (image,), dynamic_shapes=({0: torch.export.Dim("batch", min=2)},))
        assert torch.allclose(program.module()(image), expected, atol=1e-5)
        assert program.module()(image.repeat(3, 1, 1, 1)).shape == (6, 5)
        compiled = torch.compile(model, backend="aot_eager", fullgraph=True, dynamic=False)
        assert torch.allclose(compiled(image), expected, atol=1e-5)


def test_bfloat16_autocast_and_half_the_precision_throughout() -> None:
    model, image = small(), torch.randn(1, 3, 50, 70)
    with torch.no_grad():
        expected = model(image).maps[-1]
        with torch.autocast("cpu", torch.bfloat16):
            assert (model(image).maps[-1] - expected).abs().mean() < 0.05
        assert (model.bfloat16()(image.bfloat16()).maps[-1] - expected).abs().mean() < 0.05


def test_a_release_of_another_window_fits_when_that_is_asked_for() -> None:
    source = vitrail.create_model("swin_t", dim=8, depths=(2,), heads=(1,), window=4)
    model = vitrail.create_model("swin_t", dim=8, depths=(2,), heads=(1,), window=6)
    loaded = vitrail.load_weights(model, source.state_dict(), resize=True)
    assert len(loaded.resized) == 2 and all(name.endswith("bias.table") for name in loaded.resized)


def test_unequal_depths_and_heads_are_refused() -> None:
    with pytest.raises(ModelError, match="3 depths, 4 heads"):
        vitrail.create_model("swin_t", depths=(2, 2, 2))
