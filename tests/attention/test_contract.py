"""What every mechanism promises as the token mixer of a block, whatever its paper."""
import sys
import warnings

import pytest
import torch
from torch import Tensor, nn

import vitrail
from tests.attention.proof import draw
from tests.contracts.test_shapes import Checker
from vitrail.core.catalogue import mechanism_of, names
from vitrail.core.errors import ExplainError, ModelError
from vitrail.core.mechanism import Takes
from vitrail.nn import Visible

MIXERS = tuple(n for n in names("attention") if not isinstance(mechanism_of(n).mixer, str))
REFUSING = tuple(n for n in names("attention") if n not in MIXERS)
GRIDS = ((6, 6), (7, 5), (12, 9), (2, 3))
ONE_STEP = {name for name in MIXERS if name.startswith("hamburger")}    # its gradient is not that of its iterations


def build(name: str, *, dim: int = 32, heads: int = 4, grid: tuple[int, int] = (6, 6)) -> nn.Module:
    """A mixer with seeded weights, none of them zero, in evaluation mode."""
    torch.manual_seed(0)
    make = mechanism_of(name).mixer
    assert not isinstance(make, str)
    mixer = make(dim, heads, grid)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in mixer.parameters():            # gains that are born zero hide what stands behind them
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return mixer.eval()


def tokens(name: str, batch: int, grid: tuple[int, int], dim: int = 32, *, seed: int = 0,
           dtype: torch.dtype = torch.float32) -> Tensor:
    x = draw(batch, *grid, dim, seed=seed, dtype=dtype)
    return x.flatten(1, 2) if mechanism_of(name).takes is Takes.TOKENS else x


@pytest.mark.parametrize("name", MIXERS)
def test_any_size_of_map(name: str) -> None:
    """On the grid it was born for, and on others."""
    for grid in GRIDS:
        for born in {grid, GRIDS[0]}:
            x = tokens(name, 2, grid)
            y = build(name, grid=born)(x)
            assert y.shape == x.shape and y.isfinite().all(), f"{grid} on a mixer born for {born}"


@pytest.mark.parametrize("name", MIXERS)
def test_rows_of_a_batch_do_not_leak(name: str) -> None:
    mixer, x = build(name), tokens(name, 3, (6, 6))
    other = torch.cat([x[:1], tokens(name, 2, (6, 6), seed=9)])
    with torch.inference_mode():
        a, b = mixer(x), mixer(other)
    torch.testing.assert_close(a[:1], b[:1], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(a[1:], b[1:])


@pytest.mark.parametrize("name", MIXERS)
def test_tokens_are_mixed_and_answers_repeat(name: str) -> None:
    mixer, x = build(name), tokens(name, 1, (6, 6))
    changed = x.clone()
    changed.view(1, 36, 32)[:, :3] += 1
    with torch.inference_mode():
        before, after = mixer(x), mixer(changed)
        assert torch.equal(before, mixer(x))
    assert not torch.allclose(before.reshape(1, 36, 32)[:, 3:], after.reshape(1, 36, 32)[:, 3:]), "nobody looked"


@pytest.mark.parametrize("name", MIXERS)
def test_gradient_reaches_every_parameter(name: str) -> None:
    mixer = build(name).train()
    mixer(tokens(name, 2, (6, 6))).square().sum().backward()
    idle = [n for n, p in mixer.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not idle


@pytest.mark.parametrize("name", [n for n in MIXERS if n not in ONE_STEP])
def test_gradient_is_that_of_the_function(name: str) -> None:
    """In float64, of the input and of every parameter, along random directions."""
    mixer, x = build(name, dim=8, heads=2, grid=(4, 3)).double(), tokens(name, 1, (4, 3), 8, dtype=torch.float64)
    params = dict(mixer.named_parameters())
    held = tuple(p.detach().clone().requires_grad_() for p in params.values())

    def call(x: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(mixer, dict(zip(params, values, strict=True)), (x,))
    assert torch.autograd.gradcheck(call, (x.requires_grad_(), *held), fast_mode=True, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("name", MIXERS)
def test_bfloat16_answers_like_float32(name: str) -> None:
    mixer, x = build(name), tokens(name, 2, (6, 6)).bfloat16()
    with torch.inference_mode():
        exact, low = mixer(x.float()), mixer.bfloat16()(x)
    assert low.dtype == torch.bfloat16 and low.isfinite().all()
    near = (low.float() - exact).abs() < 0.1 * exact.abs().max()
    # a choice (of a bucket, a cluster, the k largest) may fall the other way in bfloat16, for a few tokens
    assert near.float().mean() > 0.9


@pytest.mark.parametrize("name", MIXERS)
def test_it_exports(name: str) -> None:
    """As a program that takes batches of any size."""
    mixer, x = build(name, grid=(7, 5)), tokens(name, 2, (7, 5))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(mixer, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))
        x = tokens(name, 3, (7, 5), seed=1)
        torch.testing.assert_close(program.module()(x), mixer(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", MIXERS)
def test_record_sees_what_it_says(name: str) -> None:
    mixer, x, shows = build(name), tokens(name, 2, (6, 6)), mechanism_of(name).shows
    leaves = [n for n, part in mixer.named_modules() if isinstance(part, Visible)]
    assert bool(leaves) != shows.startswith("nothing"), f"{shows!r}, and it holds {leaves or 'no Visible leaf'}"
    with torch.no_grad():
        unwatched = mixer(x)
        if not leaves:
            with pytest.raises(ExplainError), vitrail.record(mixer):
                pass
            return
        with vitrail.record(mixer) as seen:
            watched = mixer(x)
    assert torch.equal(unwatched, watched)
    assert len(seen) and all(layer.weights.isfinite().all() and layer.weights.shape[0] == 2 for layer in seen.layers)


@pytest.mark.parametrize("name", MIXERS)
def test_shape_comments_are_true(name: str) -> None:
    mixer, checker = build(name, grid=(7, 5)), Checker()
    before = sys.gettrace()
    sys.settrace(checker)
    try:
        mixer(tokens(name, 3, (7, 5)))
    finally:
        sys.settrace(before)
    assert not checker.wrong, "\n".join(sorted(checker.wrong))


@pytest.mark.parametrize("name", MIXERS)
def test_it_takes_its_place_in_a_plain_backbone(name: str) -> None:
    model = vitrail.create_model("deit_ti16", mixer=name, classes=3, depth=2, image=64, dim=32, heads=4)
    with torch.inference_mode():
        assert model(draw(2, 3, 64, 64)).shape == (2, 3)
        assert model(draw(2, 3, 80, 48)).shape == (2, 3)
    assert model.config.mixer == name


@pytest.mark.parametrize("name", REFUSING)
def test_what_cannot_mix_says_why(name: str) -> None:
    with pytest.raises(ModelError, match="cannot mix the tokens of an image: "):
        vitrail.create_model("deit_ti16", mixer=name, depth=1)


@pytest.mark.parametrize("name", MIXERS)
def test_shapes_alone_are_enough(name: str) -> None:
    """A run asks a model of shapes whether it takes its images, before it reads any."""
    with torch.device("meta"):
        make = mechanism_of(name).mixer
        assert not isinstance(make, str)
        x = torch.empty(tokens(name, 2, (7, 5)).shape)
        assert make(32, 4, (7, 5))(x).shape == x.shape
