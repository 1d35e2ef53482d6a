"""Recording shows the weights that the model used, changes no bit of its answer, and leaves nothing behind."""
import threading

import pytest
import torch
from torch import nn

from tests.contracts.small import STRUCTURES, build
from tests.explanation.tiny import SEEING, noise, tiny
from vitrail.core.errors import ExplainError
from vitrail.explanation.record import record
from vitrail.nn import Attend, Channels, SelfAttention, Softmax, Visible, Windows, Within


def switches(model: nn.Module) -> list[tuple[bool, bool, int, int]]:
    return [(m.fused, m.watched, len(m._forward_hooks), len(m._forward_pre_hooks))
            for m in model.modules() if isinstance(m, Attend)]


@pytest.mark.parametrize("name", [n for n in STRUCTURES if any(isinstance(m, Visible) for m in build(n).modules())])
def test_recording_changes_no_bit_of_the_catalogue(name: str) -> None:
    model, image = build(name), noise(2, 3, 75, 96)
    with torch.no_grad():
        before = model(image)
        with record(model) as seen:
            during = model(image)
        after = model(image)
    assert torch.equal(before, during) and torch.equal(before, after)
    assert seen.layers
    for layer in seen.layers:                   # weights that a mechanism made in its own way need not sum to 1
        assert layer.shown or torch.allclose(layer.weights.sum(-1), torch.ones(()), atol=1e-5)


@pytest.mark.parametrize("name", SEEING)
def test_every_leaf_is_seen_in_order_and_nothing_stays(name: str) -> None:
    model, image = tiny(name), noise(2, 3, 64, 80)
    leaves = [n for n, m in model.named_modules() if isinstance(m, Visible)]
    before = model(image)
    with record(model) as seen:
        assert torch.equal(model(image), before)
    assert torch.equal(model(image), before)
    assert sorted(seen.names()) == sorted(leaves) and len(seen) == len(leaves)
    assert [n for n, _ in seen.items()] == seen.names() == list(seen)
    assert set(switches(model)) <= {(True, False, 0, 0)}
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert not any(w.requires_grad for _, w in seen.items())


def test_weights_are_the_ones_computed_by_hand() -> None:
    mixer, x = SelfAttention(12, 3), noise(2, 7, 12)
    with record(mixer) as seen:
        out = mixer(x)
    w, b = mixer.qkv.proj.weight, mixer.qkv.proj.bias
    q, k, v = (x @ part.T + bias for part, bias in zip(w.chunk(3), b.chunk(3), strict=True))
    heads = []
    for h in range(3):
        a, c = q[..., 4 * h:4 * h + 4], k[..., 4 * h:4 * h + 4]
        weights = torch.exp(a @ c.mT / 2)
        weights = weights / weights.sum(-1, keepdim=True)
        assert torch.allclose(seen["attend.softmax"][:, h], weights, atol=1e-6)
        heads.append(weights @ v[..., 4 * h:4 * h + 4])
    assert torch.allclose(out, mixer.out.proj(torch.cat(heads, -1)), atol=1e-5)


def test_layers_say_how_tokens_were_grouped_and_laid_out() -> None:
    image = noise(1, 3, 64, 80)
    found = {}
    for name in ("vit_ti16", "swin_t", "convit_ti", "tnt_s", "xcit_nano_12_p16", "vit_giant14"):
        model = tiny(name)
        with record(model) as seen:
            model(image)
        found[name] = seen.layers
    assert {(x.groups, x.grid, x.probe) for x in found["vit_ti16"]} == {(None, (4, 5), False)}
    assert [(type(x.groups), x.grid, x.weights.shape[1]) for x in found["swin_t"]] == [
        (Windows, (16, 20), 20), (Windows, (16, 20), 20), (Windows, (8, 10), 6), (Windows, (8, 10), 6)]
    assert [x.weights.shape[-1] for x in found["convit_ti"]] == [20, 20, 21, 21]
    assert {type(x.groups) for x in found["tnt_s"]} == {Within, type(None)}
    assert [x.weights.shape[-2] for x in found["xcit_nano_12_p16"] if x.groups is None] == [1, 1]
    assert {type(x.groups) for x in found["xcit_nano_12_p16"]} == {Channels, type(None)}
    assert found["vit_giant14"][-1].probe and found["vit_giant14"][-1].weights.shape[-2:] == (1, 5 * 6)


def test_with_gradients_the_weights_stand_in_their_path() -> None:
    model, image = tiny("swin_t"), noise(1, 3, 64, 64)
    plain = model(image)
    with record(model, gradients=True) as seen:
        out = model(image)
        slope = torch.autograd.grad(out[0, 0], [x.weights for x in seen.layers])
    assert torch.allclose(plain, out, atol=1e-4) and all(g.abs().sum() > 0 for g in slope)
    assert set(switches(model)) == {(True, False, 0, 0)}


def test_state_returns_after_errors_nesting_and_a_hand_that_set_it() -> None:
    model, image = tiny("vit_ti16"), noise(1, 3, 64, 64)
    attend = model.backbone.blocks[0].mix.fn.attend
    attend.fused = False                                            # somebody's choice, to be kept
    before = switches(model)
    with pytest.raises(ZeroDivisionError), record(model):
        raise ZeroDivisionError
    assert switches(model) == before
    with record(model) as outer:
        with record(model, gradients=True) as inner:
            model(image)
            assert not any(fused for fused, *_ in switches(model))
        assert [fused for fused, *_ in switches(model)] == [False, True, True]
        assert all(watched for _, watched, *_ in switches(model))
        assert inner.names() == outer.names() and all(torch.equal(inner[name], outer[name]) for name in inner)
    assert switches(model) == before
    with pytest.raises(RuntimeError), record(model):
        model(noise(1, 4, 64, 64))
    assert switches(model) == before


def test_each_run_starts_anew_and_other_threads_are_not_seen() -> None:
    model = tiny("vit_ti16")
    with record(model) as seen:
        model(noise(3, 3, 64, 64))
        model(noise(1, 3, 48, 64))
        assert [x.weights.shape[0] for x in seen.layers] == [1, 1, 1] and seen.layers[0].grid == (3, 4)
        other = threading.Thread(target=lambda: model(noise(2, 3, 64, 64)))
        other.start()
        other.join()
    assert [x.weights.shape[0] for x in seen.layers] == [1, 1, 1]


def test_what_is_kept_can_be_chosen_and_has_a_limit() -> None:
    model, image = tiny("vit_ti16"), noise(2, 3, 64, 64)
    with record(model, layers="*blocks.1*", dtype=torch.float16, device="cpu") as seen:
        model(image)
        assert [watched for _, watched, *_ in switches(model)] == [False, True, False]
    assert seen.names() == ["backbone.blocks.1.mix.fn.attend.softmax"]
    assert seen["backbone.blocks.1.mix.fn.attend.softmax"].dtype == torch.float16
    with pytest.raises(ExplainError, match=r"blocks.1.*limit_gb"), record(model, limit_gb=6e-6):
        model(image)
    with pytest.raises(ExplainError, match="leave out"), record(model, gradients=True, dtype=torch.float16):
        pass
    assert set(switches(model)) == {(True, False, 0, 0)}


def test_errors_say_what_to_do() -> None:
    with pytest.raises(ExplainError, match="gradcam"), record(tiny("resnet18")):
        pass
    model = tiny("vit_ti16")
    with pytest.raises(ExplainError, match="blocks.7"), record(model, layers="blocks.7"):
        pass
    with record(model) as seen:
        with pytest.raises(ExplainError, match="nothing was recorded"):
            seen["x"]
        model(noise(1, 3, 64, 64))
    with pytest.raises(ExplainError, match="Did you mean 'backbone.blocks.1.mix.fn.attend.softmax'"):
        seen["blocks.1.mix.fn.attend.softmax"]
    with pytest.raises(ExplainError, match="compiled"), record(torch.compile(model)):
        pass


def test_any_module_with_a_visible_leaf_can_be_recorded() -> None:
    leaf = Softmax()
    with record(leaf) as seen:
        out = leaf(noise(2, 3))
    assert torch.equal(seen[""], out)
    assert "" in seen and "nothing" not in seen
