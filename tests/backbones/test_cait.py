"""CaiT: patches among themselves, then a class token that asks and is never asked; small gains; talking heads."""
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import vitrail
from tests.backbones.made import noise, seeded
from vitrail.backbones import cait
from vitrail.backbones.cait import CaiT, ClassAttention, ClassResidual
from vitrail.core.card import Variant
from vitrail.nn import DropPath, Scale
from vitrail.weights import keys_of


def small(**changes: Any) -> CaiT:
    return seeded(CaiT(**{"image": 32, "patch": 8, "dim": 16, "depth": 2, "heads": 2, **changes}))


def test_class_attention_is_the_papers_equations() -> None:
    mixer, x = seeded(ClassAttention(12, 3)), noise(1, 6, 12)
    w, b = mixer.qkv.proj.weight, mixer.qkv.proj.bias
    q = F.linear(x[0, 0], w[:12], b[:12])                       # of the class token alone
    k, v = F.linear(x[0], w[12:24], b[12:24]), F.linear(x[0], w[24:], b[24:])
    heads = [(k[:, h] @ q[h] / 2).softmax(0) @ v[:, h] for h in (slice(0, 4), slice(4, 8), slice(8, 12))]
    torch.testing.assert_close(mixer(x)[0, 0], mixer.out.proj(torch.cat(heads)))


def test_the_class_token_joins_after_all_layers_of_patches() -> None:
    model, shapes = small(depth=3), []
    for part in (*model.blocks, *model.class_blocks):
        part.register_forward_hook(lambda module, args, out: shapes.append(tuple(out.shape[1:])))
    model(noise(1, 3, 24, 40))
    assert shapes == [(15, 16)] * 3 + [(1, 16)] * 2


def test_patches_never_hear_of_the_class_token() -> None:
    model, image = small(), noise(1, 3, 32, 32)
    before = model(image)
    with torch.no_grad():
        model.prefix.tokens += noise(*model.prefix.tokens.shape, seed=7)        # the norms take a constant out again
    after = model(image)
    assert torch.equal(before.maps[0], after.maps[0])
    assert before.prefix is not None and after.prefix is not None and not torch.allclose(before.prefix, after.prefix)


def test_the_layers_of_the_class_leave_the_patches_as_they_are() -> None:
    """Unlike XCiT's, whose release doubles them: the map is the norm of what the first layers made."""
    model, image, made = small(), noise(1, 3, 32, 32), []
    model.blocks.register_forward_hook(lambda module, args, out: made.append(out))
    found = model(image).maps[0]
    torch.testing.assert_close(found, model.norm(made[0]).unflatten(1, (4, 4)))


def test_norm_comes_before_both_and_the_gain_behind() -> None:
    part, ask, patches = seeded(ClassResidual(12, 3, 1.0)), noise(2, 1, 12), noise(2, 4, 12, seed=1)
    both = F.layer_norm(torch.cat([ask, patches], 1), (12,), part.norm.weight, part.norm.bias, 1e-6)
    torch.testing.assert_close(part(ask, patches), ask + part.scale.gamma * part.fn(both))


def test_a_gain_of_zero_is_no_layer() -> None:
    model, image = small(), noise(1, 3, 32, 32)
    with torch.no_grad():
        for part in model.modules():
            if isinstance(part, Scale):
                part.gamma.zero_()
    f = model(image)
    x = model.position(model.patch_embed(image).flatten(1, 2), (4, 4))
    torch.testing.assert_close(f.maps[0].flatten(1, 2), model.norm(x))
    assert f.prefix is not None
    torch.testing.assert_close(f.prefix, model.norm(model.prefix.tokens))


def test_the_bias_before_the_softmax_carries_nothing() -> None:
    """The release has one behind the first mixing of heads; one number for all keys, which no softmax sees."""
    model = vitrail.create_model("cait_xxs24_224", depth=1)
    for layout, before in (("timm", ""), ("official", "module.")):
        table = keys_of(model, layout)
        assert table is not None and table.rename(f"{before}blocks.0.attn.proj_l.bias") is None
        assert table.rename(f"{before}blocks.0.attn.proj_w.bias") == "backbone.blocks.0.mix.fn.behind.bias"
    scores, bias = noise(1, 2, 5, 5), noise(2, seed=1)
    torch.testing.assert_close((scores + bias[:, None, None]).softmax(-1), scores.softmax(-1))


def test_one_rate_of_stochastic_depth_for_all_layers_and_none_for_the_class() -> None:
    model = small(depth=3, drop_path=0.1)
    assert [m.p for m in model.blocks.modules() if isinstance(m, DropPath)] == [0.1] * 6
    assert not any(m.p for m in model.class_blocks.modules() if isinstance(m, DropPath))


@pytest.mark.parametrize("variant, scale", [(cait.cait_s24_224, 1e-5), (cait.cait_s36_384, 1e-6)])
def test_born_as_published(variant: Variant[Any], scale: float) -> None:
    model = variant(depth=2)
    scales = [m.gamma for m in model.modules() if isinstance(m, Scale)]
    assert len(scales) == 2 * 2 + 2 * 2 and all(bool((g == scale).all()) for g in scales)
    for linear in (m for m in model.modules() if isinstance(m, nn.Linear)):
        assert linear.weight.std().item() == pytest.approx(0.02, rel=0.05) and not linear.bias.any()
    mixings = torch.stack([w for b in model.blocks for w in (b.mix.fn.before.weight, b.mix.fn.behind.weight)])
    assert mixings.std().item() == pytest.approx(0.02, rel=0.15)
    assert model.prefix.tokens.std().item() == pytest.approx(0.02, rel=0.15)
    assert model.position.table.std().item() == pytest.approx(0.02, rel=0.05)


def test_each_size_has_its_release_at_two_addresses() -> None:
    names = vitrail.list_models("cait*")
    assert len(names) == 10
    for name in names:
        card = vitrail.card(name)
        image = card.variant.settings()["image"]
        assert {w.name: w.image for w in card.variant.weights} == {"fb_dist_in1k": image, "official": image}
        assert name.endswith(str(image))
