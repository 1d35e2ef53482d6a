"""Linformer: how its projections are initialised and shared, other lengths than their own, and what they cost."""
import math

import pytest
import torch

from tests.attention.proof import draw
from vitrail.attention.linformer import Compress, Linformer, linformer
from vitrail.measure.memory import peak_bytes


def own(*modules: torch.nn.Module) -> int:
    return sum(p.numel() for p in torch.nn.ModuleList(modules).parameters())


def test_every_token_moves_every_answer() -> None:
    module, x = Linformer(8, 2, keys=Compress(15, 3), values=Compress(15, 3)), draw(1, 15, 8).requires_grad_()
    grad, = torch.autograd.grad(module(x)[:, 4].square().sum(), x)
    assert (grad.abs().sum(2) > 0).all()


def test_tokens_have_an_order() -> None:
    module, x = Linformer(8, 2, keys=Compress(15, 3)), draw(1, 15, 8)
    assert not torch.allclose(module(x.flip(1)), module(x).flip(1), atol=1e-3)


def test_sharing() -> None:
    each, rows = 4 * (8 * 8 + 8), 3 * 15
    everything = Compress(15, 3)
    apart = Linformer(8, 2, keys=Compress(15, 3), values=Compress(15, 3))
    assert own(apart) == each + 2 * rows
    assert own(Linformer(8, 2, keys=Compress(15, 3))) == each + rows
    layers = [Linformer(8, 2, keys=everything) for _ in range(3)]
    assert own(*layers) == 3 * each + rows


def test_birth() -> None:
    module = Linformer(64, 2, keys=Compress(200, 56))
    assert module.keys.weight.abs().max() <= math.sqrt(6 / 256 / 2)
    assert math.isclose(module.keys.weight.std().item(), math.sqrt(2 / 256 / 2), rel_tol=0.05)
    assert math.isclose(module.q.proj.weight.std().item(), math.sqrt(2 / 128 / 2), rel_tol=0.05)
    assert math.isclose(module.out.proj.weight.std().item(), math.sqrt(2 / 128), rel_tol=0.05)
    assert not module.out.proj.bias.any()


def test_a_shorter_sequence_is_one_whose_end_is_missing() -> None:
    compress, x = Compress(15, 3), draw(2, 15, 8)
    x[:, 9:] = 0
    torch.testing.assert_close(compress(x[:, :9]), compress(x))


@pytest.mark.parametrize("tokens", [15, 16, 37, 400])
def test_a_longer_sequence_is_summed_up_to_the_same_size(tokens: int) -> None:
    compress = Compress(15, 2)
    with torch.no_grad():
        compress.weight[0] = 0.5
        compress.weight[1] = torch.arange(-7, 8)                        # a slope, which sums up to nothing
    sums = compress(torch.ones(1, tokens, 1))[0, :, 0]
    torch.testing.assert_close(sums, torch.tensor([7.5, 0.0]), atol=1e-4, rtol=0)


def test_a_longer_sequence_that_says_the_same_has_the_same_sums() -> None:
    """A smooth signal, drawn more finely, meets smooth weights."""
    compress = Compress(64, 1)
    with torch.no_grad():
        compress.weight[0] = torch.linspace(0, 3, 64).sin()

    def sums(tokens: int) -> torch.Tensor:
        at = (torch.arange(tokens) + 0.5) / tokens
        return compress((4 * at).cos()[None, :, None])
    torch.testing.assert_close(sums(640), sums(64), rtol=5e-3, atol=0)


def test_resampled_weights_learn() -> None:
    compress = Compress(6, 2)
    compress(draw(1, 11, 4)).square().sum().backward()
    assert compress.weight.grad is not None and (compress.weight.grad != 0).all()


def test_as_a_mixer_it_has_a_quarter_of_the_tokens_and_at_most_128_rows() -> None:
    assert not isinstance(linformer.mixer, str)
    ranks = {grid: linformer.mixer(8, 2, grid).keys.weight.shape for grid in ((1, 1), (7, 5), (16, 32), (64, 64))}
    assert ranks == {(1, 1): (1, 1), (7, 5): (9, 35), (16, 32): (128, 512), (64, 64): (128, 4096)}


def test_memory_grows_with_the_tokens() -> None:
    def peak(n: int) -> int:
        module, x = Linformer(64, 2, keys=Compress(n, 64), values=Compress(n, 64)), draw(1, n, 64)
        return peak_bytes(lambda: module(x))
    assert peak(8192) < 4.4 * peak(2048)


def test_what_cannot_be() -> None:
    with pytest.raises(ValueError, match="cannot be compressed to 0 rows"):
        Compress(15, 0)
    with pytest.raises(ValueError, match="3 heads do not divide"):
        Linformer(8, 3, keys=Compress(15, 3))
