"""Attention-augmented convolution: its two halves alone, what each place sees, the paper's shares, its memory."""
import pytest
import torch
from torch import nn

import vitrail
from tests.attention.proof import draw
from vitrail.attention.attention_augmented import AttentionAugmented, RelativeAttention2d, attention_augmented
from vitrail.measure.memory import peak_bytes


def init_weights(values: int) -> AttentionAugmented:
    torch.manual_seed(0)
    return AttentionAugmented(12, 2, grid=(5, 4), keys=8, values=values)


@torch.no_grad()
def test_each_half_alone() -> None:
    x = draw(2, 5, 4, 12)
    conv, attention = init_weights(0), init_weights(12)
    assert list(conv.branches) == ["conv"] and list(attention.branches) == ["attention"]
    torch.testing.assert_close(conv(x), conv.branches["conv"](x))
    torch.testing.assert_close(attention(x), attention.branches["attention"](x))


@torch.no_grad()
def test_convolved_channels_come_first_and_see_little() -> None:
    mixer, x = init_weights(4), draw(1, 5, 4, 12)
    far = x.clone()
    far[0, 4, 3] += 1
    changed = (mixer(far) - mixer(x))[0, 0, 0].abs() > 0
    assert torch.equal(changed, torch.tensor([False] * 8 + [True] * 4))


def test_explanations_know_that_its_maps_are_not_all() -> None:
    half, whole = init_weights(4).branches["attention"], init_weights(12).branches["attention"]
    assert isinstance(half, RelativeAttention2d) and half.groups is not None
    assert isinstance(whole, RelativeAttention2d) and whole.groups is None


@torch.no_grad()
def test_its_weights_are_shown_beside_the_kernel() -> None:
    mixer = init_weights(4)
    with vitrail.record(mixer) as seen:
        mixer(draw(2, 6, 3, 12))
    (name, weights), = seen.items()
    assert name.endswith("softmax") and weights.shape == (2, 2, 18, 18)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 2, 18))


def test_the_papers_shares() -> None:
    """κ = 0.2 and υ = 0.1 of the channels, and at least 20 channels a head for keys."""
    assert not isinstance(attention_augmented.mixer, str)
    for dim, heads, keys, values in ((1024, 8, 200, 96), (192, 3, 60, 18), (32, 4, 80, 4)):
        half = attention_augmented.mixer(dim, heads, (7, 7)).branches["attention"]
        assert (half.keys, half.values) == (keys, values)


def test_it_never_holds_a_map_of_all_pairs() -> None:
    """Keys have H + W channels more, so four times the places take eight times the memory, where pairs take 16."""
    def peak(side: int) -> int:
        mixer, x = RelativeAttention2d(16, 2, grid=(side, side), keys=16, values=16), draw(1, side, side, 16)
        return peak_bytes(lambda: mixer(x).sum().backward())
    assert peak(48) < 8.5 * peak(24) and peak(48) < 2 * 48 ** 4 * 4


def test_both_halves_are_trained() -> None:
    mixer = init_weights(4)
    mixer(draw(1, 5, 4, 12)).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in mixer.parameters())
    assert isinstance(mixer.branches["conv"], nn.Conv2d)


def test_what_cannot_be_built_says_why() -> None:
    with pytest.raises(ValueError, match="cannot come from attention"):
        AttentionAugmented(12, 2, grid=(4, 4), keys=8, values=14)
    with pytest.raises(ValueError, match="do not divide"):
        AttentionAugmented(12, 3, grid=(4, 4), keys=8, values=6)
    with pytest.raises(ValueError, match="must be odd"):
        AttentionAugmented(12, 2, grid=(4, 4), keys=8, values=4, window=2)
