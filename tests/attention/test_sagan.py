"""What is true of SAGAN's attention only: singular values, the gain, pooled keys."""
import pytest
import torch
from torch import Tensor, nn

from tests.attention.proof import draw
from vitrail.attention.sagan import Sagan
from vitrail.explanation.record import record
from vitrail.measure.memory import peak_bytes
from vitrail.nn import Residual


def test_the_largest_singular_value_is_one_and_is_followed_in_training_only() -> None:
    torch.manual_seed(0)
    mixer, x = Sagan(32, 1, gain=1.0), draw(1, 4, 4, 32)
    with torch.no_grad():
        for matrix in (mixer.f, mixer.v):
            weight = matrix.get_parameter("parametrizations.weight.original")
            weight.add_(0.5 * torch.randn_like(weight)).mul_(7)
    before = {k: v.clone() for k, v in mixer.state_dict().items()}
    mixer.eval()(x)
    assert all(torch.equal(v, before[k]) for k, v in mixer.state_dict().items())
    mixer.train()
    for _ in range(200):
        mixer(x)
    for matrix in (mixer.f, mixer.g, mixer.h, mixer.v):
        assert isinstance(matrix.weight, Tensor)
        assert float(torch.linalg.svdvals(matrix.weight.detach())[0]) == pytest.approx(1, abs=1e-3)


def test_the_published_layer_is_born_as_the_identity() -> None:
    x, layer = draw(2, 5, 4, 16), Residual(Sagan(16, 1), nn.Identity())
    assert torch.equal(layer(x), x)
    layer(x).square().sum().backward()
    assert layer.fn.gain.grad is not None and layer.fn.gain.grad != 0, "and can leave it"


def test_published_widths() -> None:
    mixer = Sagan(64, 1)
    shapes = {name.partition(".")[0]: tuple(p.shape) for name, p in mixer.named_parameters()}
    assert shapes == {"gain": (), "f": (8, 64), "g": (8, 64), "h": (32, 64), "v": (64, 32)}
    assert len(list(mixer.parameters())) == 5, "no biases"


def test_keys_are_pooled() -> None:
    mixer, x = Sagan(16, 2, gain=1.0).eval(), draw(2, 5, 7, 16)
    with torch.no_grad(), record(mixer) as seen:
        mixer(x)
    weights = seen.layers[0].weights
    assert weights.shape == (2, 2, 35, 2 * 3)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 2, 35))
    x.requires_grad_()
    mixer(x)[0, 0, 0].sum().backward()
    assert x.grad is not None
    reach = x.grad[0].abs().amax(-1) > 0
    assert reach[:4, :6].any() and not reach[4].any() and not reach[:, 6].any(), "odd ones are left out"


def test_no_map_of_weights_is_held() -> None:
    mixer = Sagan(16, 1, gain=1.0).eval()

    def peak(side: int) -> int:
        x = draw(1, side, side, 16)
        with torch.inference_mode():
            return peak_bytes(lambda: mixer(x))
    assert peak(64) <= 4.4 * peak(32)


def test_heads_divide_the_channels() -> None:
    for heads in (3, 0):
        with pytest.raises(ValueError, match=f"{heads} heads do not divide"):
            Sagan(16, heads)
