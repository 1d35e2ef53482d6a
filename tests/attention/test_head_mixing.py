"""What is true of mechanisms that mix the maps of heads only: where they are plain attention, and who hears whom."""
import pytest
import torch

from tests.attention.proof import draw
from vitrail.attention.re_attention import ReAttention
from vitrail.attention.talking_heads import TalkingHeads
from vitrail.explanation.record import record
from vitrail.nn import SelfAttention


def test_heads_that_hear_only_themselves_are_plain_attention() -> None:
    plain, x = SelfAttention(16, 4), draw(2, 9, 16)
    talking, again = TalkingHeads(16, 4), ReAttention(16, 4, qkv_bias=True).eval()
    with torch.no_grad():
        for mixer, mixing in ((talking, [talking.before.weight, talking.behind.weight]), (again, [again.theta])):
            mixer.qkv.load_state_dict(plain.qkv.state_dict())
            mixer.out.load_state_dict(plain.out.state_dict())
            for matrix in mixing:
                matrix.copy_(torch.eye(4))
        assert again.norm.running_var is not None
        again.norm.running_var.fill_(1 - again.norm.eps)
        torch.testing.assert_close(talking(x), plain(x))
        torch.testing.assert_close(again(x), plain(x))


@pytest.mark.parametrize("mixer", [TalkingHeads(16, 4), TalkingHeads(16, 4, maps=3), ReAttention(16, 4).eval()],
                         ids=["talking", "talking over 3 maps", "re-attention"])
def test_every_head_hears_every_other(mixer: TalkingHeads | ReAttention) -> None:
    """The weights of each head move with the queries of each, and need not sum to one."""
    x = draw(1, 5, 16)
    with record(mixer, gradients=True) as seen:
        mixer(x)
    weights = seen.layers[0].weights
    assert weights.shape == (1, 4, 5, 5) and not torch.allclose(weights.sum(-1), torch.ones(1, 4, 5), atol=0.01)
    for head in range(4):
        mixer.zero_grad()
        weights[0, head, 0, 0].backward(retain_graph=True)
        moved = mixer.qkv.proj.weight.grad
        assert moved is not None
        queries = moved[:16].view(4, 4, 16).abs().amax((1, 2))
        assert (queries > 0).all()


def test_the_norm_folded_into_theta_is_the_norm() -> None:
    torch.manual_seed(0)
    mixer, maps = ReAttention(12, 3), draw(2, 3, 7, 7).softmax(-1)
    for _ in range(3):
        mixer.mixed(maps)
    with torch.no_grad():
        mixer.norm.weight.uniform_(0.5, 2)
        mixer.norm.bias.uniform_(-1, 1)
        mixed = (mixer.theta @ maps.flatten(2)).view_as(maps)
        torch.testing.assert_close(mixer.eval().mixed(maps), mixer.norm(mixed))


def test_in_training_the_norm_takes_the_maps_own_figures() -> None:
    mixer, maps = ReAttention(12, 3), draw(2, 3, 7, 7).softmax(-1)
    assert mixer.norm.running_mean is not None
    mixed = mixer.mixed(maps)
    torch.testing.assert_close(mixed.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    assert mixer.norm.running_mean.abs().min() > 0


def test_heads_divide_the_channels() -> None:
    for mixer in (TalkingHeads, ReAttention):
        with pytest.raises(ValueError, match="3 heads do not divide"):
            mixer(16, 3)
