"""What is true of lambda layers only: their reach, what moves with the map, other sizes, their memory."""
import pytest
import torch
from torch import Tensor

from tests.attention.proof import draw
from vitrail.attention.lambda_layer import Lambda, LambdaGlobal, LambdaLocal
from vitrail.measure.memory import peak_bytes
from vitrail.ops.positions import resample_positions


def placed(mixer: Lambda, x: Tensor) -> Tensor:
    """The answer without what is the same for all places."""
    q, _, v = mixer.qkv(x).split(mixer.widths, -1)
    return mixer.placed(mixer.norm_q(q).unflatten(-1, (mixer.heads, -1)),
                        mixer.norm_v(v).unflatten(-1, (mixer.intra, -1)))


@pytest.mark.parametrize("size", [(5, 6), (7, 3), (1, 4)])
def test_content_is_of_all_places_and_a_convolution_of_its_window(size: tuple[int, int]) -> None:
    h, w = size
    whole = torch.ones(h, w, dtype=torch.bool)
    window = torch.zeros_like(whole)
    window[max(h // 2 - 1, 0):h // 2 + 2, w - 2:] = True
    local, everywhere = LambdaLocal(12, 2, window=3, keys=4), LambdaGlobal(12, 2, grid=size, keys=4)
    for mixer, call, expected in ((local, local, whole), (local, lambda x: placed(local, x), window),
                                  (everywhere, lambda x: placed(everywhere, x), whole)):
        x = draw(1, h, w, 12, dtype=torch.float64).requires_grad_()
        mixer.double().eval()
        call(x)[0, h // 2, w - 1].sum().backward()
        assert x.grad is not None
        assert torch.equal(x.grad[0].abs().amax(-1) > 0, expected)


def test_content_ignores_order_and_places_do_not() -> None:
    mixer, x, order = LambdaGlobal(12, 2, grid=(4, 5)).eval(), draw(2, 4, 5, 12), torch.tensor([2, 0, 4, 1, 3])
    with torch.no_grad():
        mixer.offsets.mul_(50)
        assert not torch.allclose(mixer(x)[:, :, order], mixer(x[:, :, order]), atol=1e-2)
        mixer.offsets.zero_()
        torch.testing.assert_close(mixer(x)[:, :, order], mixer(x[:, :, order]))


def test_all_heads_go_through_the_same_matrices() -> None:
    """Equal queries get equal answers, whichever head asks."""
    mixer = LambdaGlobal(12, 3, grid=(4, 4), keys=5).eval()
    with torch.no_grad():
        mixer.qkv.weight[5:15] = mixer.qkv.weight[:5].repeat(2, 1)
        heads = mixer(draw(1, 4, 4, 12)).chunk(3, -1)
    assert torch.equal(heads[0], heads[1]) and torch.equal(heads[0], heads[2])


def test_more_keys_a_place_cost_no_wider_answer() -> None:
    for intra in (1, 2, 4):
        mixer = LambdaLocal(12, 2, window=3, keys=4, intra=intra)
        assert mixer.qkv.weight.shape == (2 * 4 + 4 * intra + 6 * intra, 12)
        assert mixer(draw(2, 3, 3, 12)).shape == (2, 3, 3, 12)


def test_another_size_resamples_the_table() -> None:
    mixer = LambdaGlobal(12, 2, grid=(4, 6), keys=4, intra=2).eval()
    for h, w in ((4, 7), (6, 3), (1, 1)):
        expected = LambdaGlobal(12, 2, grid=(h, w), keys=4, intra=2).eval()
        table = resample_positions(mixer.offsets.detach(), (2 * h - 1, 2 * w - 1), old=(7, 11))
        expected.load_state_dict({**mixer.state_dict(), "offsets": table})
        x = draw(2, h, w, 12)
        assert torch.equal(mixer(x), expected(x))


@pytest.mark.parametrize("training", [False, True])
def test_memory_of_the_convolution_is_linear_and_of_the_whole_map_below_all_pairs(training: bool) -> None:
    def peak(mixer: Lambda, side: int, batch: int = 1) -> int:
        x = draw(batch, side, side, 16)
        mixer.train(training)
        if training:
            return peak_bytes(lambda: mixer(x).sum().backward())
        with torch.inference_mode():
            return peak_bytes(lambda: mixer(x))
    local = LambdaLocal(16, 2, window=3, keys=4)
    assert peak(local, 64) <= 1.1 * 4 * peak(local, 32)
    small, large = (peak(LambdaGlobal(16, 2, grid=(n, n), keys=4), n) for n in (16, 32))
    assert large <= 1.1 * 4 ** 1.5 * small
    assert large < 4 * 32 ** 4 * 4, "all pairs' vectors of 4 float32"


def test_wrong_numbers_are_refused() -> None:
    for heads in (5, 0):
        with pytest.raises(ValueError, match=f"{heads} heads do not divide"):
            LambdaLocal(12, heads)
    with pytest.raises(ValueError, match="at least one key"):
        LambdaGlobal(12, 2, grid=(3, 3), intra=0)
    with pytest.raises(ValueError, match="must be odd"):
        LambdaLocal(12, 2, window=4)
