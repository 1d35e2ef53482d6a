"""TNT: pixels never leave their patch, patches are told what they found, and what the release carries for nothing."""
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.backbones.made import noise
from vitrail.backbones.tnt import OFFICIAL, TNT, PatchDrop, PixelAttention, Pixels, timm, tnt_s
from vitrail.nn import DropPath, Within, share


def small(**changes: int | float | tuple[int, int]) -> Any:
    torch.manual_seed(0)
    settings = {"image": 48, "dim": 24, "depth": 2, "heads": 3, "inner": 8, "inner_heads": 2, **changes}
    return TNT(**settings).eval()  # type: ignore[arg-type]


def test_inner_attention_stays_in_its_patch() -> None:
    torch.manual_seed(0)
    mixer, x = PixelAttention(8, 2), noise(1, 5, 6, 8).requires_grad_()
    assert isinstance(mixer.groups, Within)
    mixer(x)[0, 3, 1].sum().backward()
    assert x.grad is not None
    touched = x.grad[0].abs().sum(-1) > 0
    assert touched[3].all() and touched.sum() == 6


def test_pixels_never_leave_their_patch_and_patches_see_all() -> None:
    model, image = small(), noise(1, 3, 48, 48).requires_grad_()
    streams: list[tuple[Tensor, Tensor]] = []
    model.blocks.register_forward_hook(lambda module, args, out: streams.append(out))
    model(image)
    pixels, patches = streams[0]
    assert pixels.shape == (1, 9, 16, 8) and patches.shape == (1, 10, 24)

    def touched(out: Tensor) -> Tensor:
        (grad,) = torch.autograd.grad(out.sum(), image, retain_graph=True)
        return F.max_pool2d(grad.abs().sum(1), 16)[0] > 0
    for at in (0, 5):
        assert torch.equal(touched(pixels[0, at]).flatten(), torch.arange(9) == at)
    assert touched(patches[0, 3]).all() and touched(patches[0, 0]).all()


def test_each_patch_is_cut_first_and_convolved_with_its_own_border() -> None:
    torch.manual_seed(0)
    pixels, image = Pixels(16, 8, 4), noise(2, 3, 32, 48)
    out = pixels(image)
    assert out.shape == (2, 2, 3, 16, 8)
    for y in range(2):
        for x in range(3):
            alone = pixels.proj(image[:, :, 16 * y:16 * y + 16, 16 * x:16 * x + 16])
            torch.testing.assert_close(out[:, y, x], alone.flatten(2).mT)
    whole = pixels.proj(image)          # as timm's "legacy" variant does
    assert not torch.allclose(out[:, 1, 1], whole[:, :, 4:8, 4:8].flatten(2).mT, atol=1e-3)


@pytest.mark.parametrize("patch, stride, n", [(16, 4, 16), (16, 5, 16), (8, 4, 4), (12, 8, 4)])
def test_the_number_of_pixels_follows_from_patch_and_stride(patch: int, stride: int, n: int) -> None:
    model = small(patch=patch, inner_stride=stride)
    assert model.patch_embed(noise(1, 3, 48, 48)).shape[3] == n == model.pixel_position.table.shape[1]
    assert model(noise(1, 3, 48, 48)).maps[0].shape == (1, 48 // patch, 48 // patch, 24)


def test_the_class_token_is_told_nothing_by_pixels() -> None:
    block = small().blocks[0]
    for part in (block.outer.mix.fn.out.proj, block.outer.mlp.fn.fc2):
        nn.init.zeros_(part.weight)             # the outer transformer silent
    pixels, patches = noise(1, 4, 16, 8), noise(1, 5, 24, seed=1)
    inner, out = block((pixels, patches))
    assert torch.equal(out[:, 0], patches[:, 0])
    torch.testing.assert_close(out[:, 1:], patches[:, 1:] + block.to_patch(inner))


def test_only_the_first_projection_to_patches_has_a_bias() -> None:
    model = small()
    assert model.to_patch.proj.bias is not None and all(b.to_patch.proj.bias is None for b in model.blocks)


def test_all_patches_share_the_positions_of_pixels() -> None:
    model = small()
    nn.init.zeros_(model.patch_embed.proj.weight)
    nn.init.zeros_(model.patch_embed.proj.bias)
    seen: list[Tensor] = []
    model.pixel_position.register_forward_hook(lambda module, args, out: seen.append(out))
    model(noise(2, 3, 48, 32))
    assert torch.equal(seen[0], model.pixel_position.table.expand(2, 6, -1, -1))


def test_the_releases_dead_tensor_is_dropped() -> None:
    """The authors' module holds `outer_tokens`, 75,264 numbers that its forward pass never reads."""
    golden = json.loads((Path(__file__).parents[1] / "golden" / "tnt.official.json").read_text("utf-8"))
    released = {k: torch.empty(s, device="meta") for k, s in golden["tnt_s"]["tensors"].items()}
    assert released["outer_tokens"].numel() == 196 * 384 and OFFICIAL.rename("outer_tokens") is None
    with torch.device("meta"):
        ours = tnt_s()
    translated = OFFICIAL.translate(released)
    assert {k for k in translated if k.startswith("backbone.")} == {f"backbone.{k}" for k in ours.state_dict()}
    back = OFFICIAL.restore({f"backbone.{k}": v for k, v in ours.state_dict().items()})
    assert "outer_tokens" not in back
    assert sum(t.numel() for t in released.values()) - sum(t.numel() for t in translated.values()) == 196 * 384


def test_timm_keeps_the_positions_of_pixels_as_a_map() -> None:
    table, positions = timm(tnt_s.settings()), noise(1, 24, 4, 4)
    ours = table.translate({"pixel_pos": positions})["backbone.pixel_position.table"]
    assert ours.shape == (1, 16, 24) and torch.equal(ours[0, 4 * 2 + 3], positions[0, :, 2, 3])
    assert torch.equal(table.restore({"backbone.pixel_position.table": ours})["pixel_pos"], positions)


def test_queries_and_keys_come_first_and_values_last() -> None:
    name = "backbone.blocks.1.outer.mix.fn.qkv.proj.weight"
    qk, v = noise(48, 24), noise(24, 24, seed=1)
    ours = OFFICIAL.translate({"blocks.1.outer_attn.qk.weight": qk, "blocks.1.outer_attn.v.weight": v})
    assert torch.equal(ours[name][:48], qk) and torch.equal(ours[name][48:], v)


def test_stochastic_depth_drops_patches_inside_and_images_outside() -> None:
    drop, x = PatchDrop(0.5).train(), torch.ones(8, 16, 3, 2)
    torch.manual_seed(0)
    out = drop(x)
    kept = out.flatten(2).unique(dim=2).squeeze(2)      # a patch goes as a whole ...
    assert kept.shape == (8, 16) and set(kept.unique().tolist()) == {0.0, 2.0}
    assert all(len(image.unique()) == 2 for image in kept)      # ... and alone
    parts = []
    for rank in range(2):
        torch.manual_seed(0)
        with share(rank, 2):
            parts.append(drop(x[4 * rank:4 * rank + 4]))
    assert torch.equal(torch.cat(parts), out)
    assert torch.equal(drop.eval()(x), x)


def test_stochastic_depth_climbs_and_is_one_rate_within_a_block() -> None:
    model = small(depth=3, drop_path=0.2)
    rates = [m.p for m in model.modules() if isinstance(m, DropPath)]
    assert rates == pytest.approx([0.0] * 4 + [0.1] * 4 + [0.2] * 4)
    assert all(isinstance(part.drop, PatchDrop) for b in model.blocks for part in (b.inner.mix, b.inner.mlp))


def test_born_as_published() -> None:
    model = tnt_s(depth=2)
    for linear in (m for m in model.modules() if isinstance(m, nn.Linear)):
        assert linear.weight.std().item() == pytest.approx(0.02, rel=0.06)
        assert linear.bias is None or not linear.bias.any()
    for table in (model.position.table, model.pixel_position.table, model.prefix.tokens):
        assert table.std().item() == pytest.approx(0.02, rel=0.15)
    assert {m.eps for m in model.modules() if isinstance(m, nn.LayerNorm)} == {1e-5}


def test_an_odd_image_is_padded_below_and_to_the_right() -> None:
    model, image = small(image=(50, 35)), noise(1, 3, 50, 35)
    assert model(image).maps[0].shape == (1, 4, 3, 24)
    assert torch.equal(model(image).maps[0], model(F.pad(image, (0, 13, 0, 14))).maps[0])
