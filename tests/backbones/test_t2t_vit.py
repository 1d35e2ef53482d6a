"""T2T-ViT: what a soft split sees, how tokens attend before they are tokens, and what the releases hold."""
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import vitrail
from tests.backbones.made import noise
from vitrail.backbones.t2t_vit import (FixedPositions, SoftSplit, T2TViT, TokenAttention, TokenPerformer, t2t_vit_7,
                                       t2t_vit_14)
from vitrail.backbones.t2t_vit_bodies import GhostAttention, GhostMlp, SqueezeExciteTokens, T2TViTDense, T2TViTGhost
from vitrail.core.errors import CheckpointError, ModelError
from vitrail.nn import DropPath, Elsewhere, Scale
from vitrail.positions.sinusoidal import sinusoids


def small(**changes: object) -> T2TViT:
    torch.manual_seed(0)
    settings = {"image": 64, "dim": 16, "depth": 1, "heads": 2, "inner": 8, **changes}
    return T2TViT(**settings).eval()  # type: ignore[arg-type]


@pytest.mark.parametrize("size, stride, padding", [(7, 4, 2), (3, 2, 1)])
def test_a_soft_split_is_a_neighbourhood_written_side_by_side(size: int, stride: int, padding: int) -> None:
    x = noise(1, 12, 8, 5)
    out = SoftSplit(size, stride, padding)(x)
    assert out.shape == (1, 12 // stride, 8 // stride, 5 * size * size)
    padded = F.pad(x, (0, 0, padding, padding, padding, padding))
    for i, j in ((0, 0), (2, 1)):
        window = padded[0, stride * i:stride * i + size, stride * j:stride * j + size]
        assert torch.equal(out[0, i, j], window.permute(2, 0, 1).flatten())


def test_tokens_overlap_by_what_the_splits_reach() -> None:
    """Without attention between, a token sees 31 x 31 pixels: 14 before its patch of 16, and one behind it."""
    model = small()
    for layer in (model.embed.patch_embed.layer1, model.embed.patch_embed.layer2):
        nn.init.zeros_(layer.mix.out.weight)
    image = noise(1, 3, 96, 96).requires_grad_()
    model.embed.patch_embed(image)[0, 3, 2].sum().backward()
    assert image.grad is not None
    seen = image.grad[0].abs().sum(0) > 0
    rows, columns = (seen.any(axis).nonzero()[:, 0].tolist() for axis in (1, 0))
    assert rows == list(range(3 * 16 - 14, 4 * 16 + 1)) and columns == list(range(2 * 16 - 14, 3 * 16 + 1))


def test_a_token_performer_is_its_formula() -> None:
    """k, q, v in this order; no scale; the values are what is added to; 1e-8 keeps the quotient."""
    torch.manual_seed(0)
    part, x = TokenPerformer(12, 8).eval().double(), noise(2, 3, 5, 12).double()
    k, q, v = (x.flatten(1, 2) @ part.kqv.weight.T + part.kqv.bias).split(8, -1)

    def phi(t: Tensor) -> Tensor:
        return torch.exp(t @ part.directions.T - t.norm(dim=-1, keepdim=True) ** 2 / 2) / 2         # √4 directions
    weights = phi(q) @ phi(k).mT
    expected = v + part.out(weights @ v / (weights.sum(-1, keepdim=True) + 1e-8))
    torch.testing.assert_close(part(x).flatten(1, 2), expected, rtol=1e-10, atol=1e-12)
    assert isinstance(part.groups, Elsewhere)


def test_directions_are_orthogonal_and_no_parameters() -> None:
    torch.manual_seed(0)
    w = TokenPerformer(12, 8).directions
    torch.testing.assert_close(w @ w.T, 4 * torch.eye(4))
    model = small()
    held = {k for k in model.state_dict() if k not in dict(model.named_parameters())}
    assert held == {"embed.position.table", "embed.patch_embed.layer1.mix.directions",
                    "embed.patch_embed.layer2.mix.directions"}


def test_token_attention_scales_by_the_width_of_its_input() -> None:
    torch.manual_seed(0)
    part, x = TokenAttention(36, 4), 5 * noise(1, 2, 3, 36)
    q, k, v = (x.flatten(1, 2) @ part.qkv.weight.T).split(4, -1)
    expected = v + part.out((q @ k.mT / 6).softmax(-1) @ v)
    torch.testing.assert_close(part(x).flatten(1, 2), expected)


def test_positions_are_counted_for_the_size_of_birth_and_resampled_for_others() -> None:
    part = FixedPositions((3, 4), 8)
    torch.testing.assert_close(part.table[0], sinusoids(13, 8).float())
    zeros = torch.zeros(1, 13, 8)
    assert torch.equal(part(zeros, (3, 4)), part.table)
    other = part(torch.zeros(1, 1 + 36, 8), (6, 6))
    assert torch.equal(other[:, 0], part.table[:, 0])                   # the class token keeps its place
    assert not torch.allclose(other[0], sinusoids(37, 8).float(), atol=0.1)


def test_weights_of_another_size_bring_their_positions() -> None:
    theirs, ours = vitrail.create_model("t2t_vit_7", depth=1), vitrail.create_model("t2t_vit_7", depth=1, image=96)
    with pytest.raises(CheckpointError, match="resize=True"):
        vitrail.load_weights(ours, theirs.state_dict())
    found = vitrail.load_weights(ours, theirs.state_dict(), resize=True)
    assert found.resized == ("backbone.embed.position.table",)


def test_attention_between_tokens_is_explained_down_to_the_first_split() -> None:
    """The layers of a transformer tokeniser show 16 x 16 and 8 x 8 tokens; a performer has no weights to show."""
    for performer, grids in ((False, [(16, 16), (8, 8), (4, 4)]), (True, [(4, 4)])):
        model = small(performer=performer)
        with vitrail.record(model) as seen:
            model(noise(1, 3, 64, 64))
        assert [layer.grid for layer in seen.layers] == grids


def test_born_as_published() -> None:
    model = t2t_vit_14(depth=2)
    for linear in (m for m in model.modules() if isinstance(m, nn.Linear)):
        assert linear.weight.std().item() == pytest.approx(0.02, rel=0.06)
        assert linear.bias is None or not linear.bias.any()
    assert model.embed.prefix.tokens.std().item() == pytest.approx(0.02, rel=0.15)
    assert {m.eps for m in model.modules() if isinstance(m, nn.LayerNorm)} == {1e-5}
    assert all(b.mix.fn.qkv.proj.bias is None for b in model.blocks)
    assert [d.p for d in model.embed.modules() if isinstance(d, nn.Dropout)] == [0.1] * 4
    assert [d.p for d in small(performer=False).embed.modules() if isinstance(d, nn.Dropout)] == [0.0] * 2


def test_ghosts_are_the_first_half_times_gains() -> None:
    torch.manual_seed(0)
    part, x = GhostAttention(16, 4), noise(2, 5, 16)
    q = part.q(x)
    assert torch.equal(q[..., 8:], q[..., :8] * part.q.gain.gamma)
    part.q.gain.gamma.data.zero_()
    seen: list[Tensor] = []
    part.attend.softmax.register_forward_hook(lambda module, args, out: seen.append(out))
    part.attend.fused = False
    part(x)
    torch.testing.assert_close(seen[0][:, 2:], torch.full((2, 2, 5, 5), 0.2))       # the later heads are ghosts
    assert not torch.allclose(seen[0][:, :2], torch.full((2, 2, 5, 5), 0.2), atol=1e-3)


def test_a_ghost_mlp_is_its_formula() -> None:
    torch.manual_seed(0)
    part, x = GhostMlp(6), noise(2, 5, 6)
    nn.init.uniform_(part.gain2.gamma, -1, 1)
    a = F.gelu(part.fc1(x))
    b, c = F.gelu(a * part.gain2.gamma), F.gelu(a * part.gain3.gamma)
    torch.testing.assert_close(part(x), part.fc2(torch.cat([a, b, c], -1)))
    with torch.no_grad():
        torch.testing.assert_close(part(x), part.fc2(torch.cat([a, b, c], -1)))     # where Gelu overwrites its input


def test_gains_of_ghosts_are_born_as_convolutions_of_one_tap() -> None:
    torch.manual_seed(0)
    gains = torch.cat([m.gamma for m in T2TViTGhost(depth=2).modules() if isinstance(m, Scale)])
    assert gains.abs().max() <= 1 and gains.std().item() == pytest.approx(1 / math.sqrt(3), rel=0.05)


def test_the_class_token_counts_when_channels_are_squeezed() -> None:
    torch.manual_seed(0)
    part, x = SqueezeExciteTokens(16, 4), noise(1, 5, 16)
    gate = torch.sigmoid(part.expand(torch.relu(part.reduce(x.mean(1)))))
    torch.testing.assert_close(part(x), x * gate[:, None])


def test_dense_blocks_keep_what_came_before_and_halve_between_groups() -> None:
    torch.manual_seed(0)
    model = T2TViTDense(image=32, dim=16, depths=(2, 1), heads=4, growth=8, inner=8).eval()
    assert model.channels == ((16 + 2 * 8) // 2 + 8,)
    x = noise(1, 5, 16)
    assert torch.equal(model.blocks[0](x)[..., :16], x) and model.blocks[0](x).shape == (1, 5, 24)
    assert model(noise(1, 3, 32, 32)).maps[0].shape == (1, 2, 2, 24)
    for depths in ((), (2, 0), (1,) * 13):
        with pytest.raises(ModelError, match="one to 12 groups"):
            T2TViTDense(depths=depths)


def test_dense_groups_take_the_first_rates_of_a_ramp_over_twelve() -> None:
    model = T2TViTDense(depths=(1, 2, 1, 1), drop_path=0.11)
    rates = [m.p for m in model.modules() if isinstance(m, DropPath)]
    assert rates == pytest.approx([0, 0, 0.01, 0.01, 0.01, 0.01, 0.02, 0.02, 0.03, 0.03])


def test_an_odd_image_is_padded_to_multiples_of_four() -> None:
    model, image = t2t_vit_7(depth=1).eval(), noise(1, 3, 50, 35)
    assert model(image).maps[0].shape == (1, 4, 3, 256)
    assert torch.equal(model(image).maps[0], model(F.pad(image, (0, 1, 0, 2))).maps[0])
    assert not torch.allclose(model(image).maps[0], model(F.pad(image, (0, 13, 0, 14))).maps[0])
