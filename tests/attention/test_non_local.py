"""What is true of non-local layers only: clips, pooled keys, birth, and what they do not hold in memory."""
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.attention.proof import draw
from vitrail.attention.non_local import Concat, Dot, Embedded, Gaussian, NonLocal, non_local_block
from vitrail.explanation.record import record
from vitrail.measure.memory import peak_bytes

FORMS = pytest.mark.parametrize("form", [Gaussian, Embedded, Dot, Concat])


def moved_by(mixer: Callable[[Tensor], Tensor], x: Tensor, place: tuple[int, ...]) -> Tensor:
    """Which places of x (1, ..., C) move the answer at one place: a map of booleans."""
    x = x.clone().requires_grad_()
    mixer(x)[(0, *place)].sum().backward()
    assert x.grad is not None
    return x.grad[0].abs().amax(-1) > 0


@FORMS
def test_a_place_sees_all_places_of_all_frames(form: type[NonLocal]) -> None:
    torch.manual_seed(1)
    reach = moved_by(form(16, 2, hidden=16), 0.5 * draw(1, 3, 4, 5, 16), (1, 2, 3))
    # where ReLU cuts all heads of a pair off, concatenation does not pass the value on
    assert reach.float().mean() > 0.5 if form is Concat else reach.all()
    assert all(frame.any() for frame in reach)


@FORMS
def test_the_order_of_places_does_not_matter(form: type[NonLocal]) -> None:
    mixer, x, order = form(16, 2), draw(2, 1, 12, 16), torch.randperm(12)
    torch.testing.assert_close(mixer(x[:, :, order]), mixer(x)[:, :, order])


@FORMS
def test_pooled_keys_leave_the_last_odd_column_out(form: type[NonLocal]) -> None:
    mixer, x = form(16, 1, pool=2), draw(1, 4, 7, 16)
    reach = moved_by(mixer, x, (0, 0))
    assert reach[1:, 1:6].any() and not reach[:, 6].any()
    assert mixer.groups is not None and form(16, 1).groups is None


@FORMS
def test_pooling_stays_within_a_frame_and_thin_maps_are_pooled_as_far_as_they_go(form: type[NonLocal]) -> None:
    mixer = form(16, 1, pool=2)
    clip = draw(2, 3, 4, 6, 16)
    assert not torch.allclose(mixer(clip.flatten(0, 1)).view_as(clip), mixer(clip)), "frames look at each other"
    # three frames in another order would be pooled otherwise, if pooling went across them
    torch.testing.assert_close(mixer(clip.flip(1)).flip(1), mixer(clip))
    for shape in ((1, 1, 5, 16), (1, 5, 1, 16), (1, 1, 1, 16)):
        assert mixer(draw(*shape)).isfinite().all()


@FORMS
def test_the_block_is_born_as_the_identity(form: type[NonLocal]) -> None:
    block, x = non_local_block(form(16, 1, pool=2), 16), draw(2, 6, 6, 16)
    assert torch.equal(block(x), x) and torch.equal(block.eval()(x), x)
    assert float(block.get_parameter("fn.out.weight").detach().std()) == pytest.approx(0.01, rel=0.3)
    block.train()(x).square().sum().backward()
    gain = block.get_parameter("scale.weight").grad
    assert gain is not None and gain.abs().max() > 0, "and can leave it"


def test_the_scale_is_the_official_one_unless_the_papers_is_asked_for() -> None:
    x = draw(1, 3, 4, 16)
    torch.manual_seed(0)
    official = Embedded(16, 1)
    paper = Embedded(16, 1, scale=1.0)
    paper.load_state_dict(official.state_dict())
    with torch.no_grad():
        for tensor in paper.theta.parameters():
            tensor.mul_(8 ** -0.5)
    torch.testing.assert_close(paper(x), official(x))


def test_values_of_another_width_still_meet_the_weights_that_are_shown() -> None:
    mixer, x = Gaussian(16, 2, scale=0.1), draw(2, 3, 4, 16)
    with torch.no_grad(), record(mixer) as seen:
        out = mixer(x)
    weights = seen.layers[0].weights
    assert weights.shape == (2, 2, 12, 12)
    y = (weights @ mixer.split(mixer.g(x))).transpose(1, 2).flatten(2)
    torch.testing.assert_close(out, mixer.out(y).view_as(x))


def forward_peak(mixer: NonLocal, side: int) -> int:
    x = draw(1, side, side, 16)
    with torch.inference_mode():
        return peak_bytes(lambda: mixer(x))


@pytest.mark.parametrize("form", [Gaussian, Embedded, Dot])
def test_no_map_of_weights_is_held(form: type[NonLocal]) -> None:
    """Four times the tokens, four times the memory."""
    mixer = form(16, 2)
    assert forward_peak(mixer, 64) <= 4.4 * forward_peak(mixer, 32)


def test_concatenation_holds_maps_but_no_pairs_of_channels() -> None:
    mixer, tokens = Concat(16, 1), 32 * 32
    one_map = tokens ** 2 * 4
    assert one_map <= forward_peak(mixer, 32) <= 3 * one_map


@FORMS
def test_heads_divide_the_channels(form: type[NonLocal]) -> None:
    for heads in (3, 0):
        with pytest.raises(ValueError, match=f"{heads} heads do not divide"):
            form(16, heads)
    with pytest.raises(ValueError, match="2 heads do not divide widths of 16 and 5"):
        form(16, 2, hidden=5)
