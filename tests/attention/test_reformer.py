"""What is true of Reformer only: the hash, who meets whom, loneliness, memory."""
import pytest
import torch
from torch import Tensor

import vitrail
from tests.attention.proof import apart, draw
from vitrail.attention.reformer import HashedAttention, Reformer, earlier
from vitrail.core.errors import ModelError
from vitrail.measure.memory import peak_bytes
from vitrail.ops.hashing import angular_hash, digits


def test_the_hash_is_the_nearest_direction() -> None:
    x, directions = draw(2, 3, 20, 6), draw(3, 6, 4, 8, seed=1)
    near = torch.einsum("bhnd,hdrk->bhrnk", x, directions)
    assert torch.equal(angular_hash(x, directions, 4), torch.cat([near, -near], -1).argmax(-1).int())
    assert torch.equal(angular_hash(5 * x, directions, 4), angular_hash(x, directions, 4)), "lengths count for nothing"


def test_digits_of_a_bucket() -> None:
    """8 directions number 16 buckets at once, 32 by a digit of 4 and one of 8."""
    assert digits(4, 8) == (4,) and digits(5, 8) == (2, 3) and digits(7, 8) == (2, 2, 3)
    assert digits(4, 4) == (2, 2) and digits(32, 32) == (2,) * 16
    with pytest.raises(ValueError, match="3 directions cannot"):
        digits(4, 3)
    x, directions = draw(1, 1, 50, 6), draw(1, 6, 1, 8, seed=1)
    low, high = angular_hash(x, directions[..., :2], 2), angular_hash(x, directions[..., 2:6], 3)
    assert torch.equal(angular_hash(x, directions, 5), low + 4 * high)


def touched(mixer: HashedAttention, x: Tensor, token: int) -> set[int]:
    """The inputs that move an output."""
    x = x.clone().requires_grad_()
    mixer(x)[0, token].sum().backward()
    assert x.grad is not None
    return set(x.grad[0].abs().sum(-1).nonzero().flatten().tolist())


def test_a_token_meets_two_chunks_a_round() -> None:
    x = draw(1, 64, 16)
    for rounds in (1, 3):
        mixer = HashedAttention(16, 1, chunk=4, rounds=rounds)
        sizes = [len(touched(mixer, x, i)) for i in range(0, 64, 7)]
        assert all(3 <= n <= 8 * rounds for n in sizes) and (rounds == 1 or max(sizes) > 8)


def test_tokens_that_point_one_way_meet() -> None:
    """Eight directions, eight tokens of each: every token looks at its own kind, wherever it stands."""
    kinds = torch.eye(8).repeat(8, 1)[torch.randperm(64, generator=torch.Generator().manual_seed(0))]
    mixer = HashedAttention(8, 1, chunk=16, rounds=4)
    with torch.no_grad():
        mixer.qv.proj.weight.copy_(torch.cat([40 * torch.eye(8), torch.eye(8)]))
        mixer.out.weight.copy_(torch.eye(8))
        y = mixer(kinds[None])[0]
    torch.testing.assert_close(y, kinds, rtol=0, atol=1e-5)


def test_nobody_looks_at_itself_but_the_lonely() -> None:
    mixer, x = HashedAttention(8, 2, chunk=4, rounds=2), draw(2, 11, 8)
    with torch.no_grad():
        alone = mixer.out(mixer.qv.proj(x[:, :1]).chunk(2, -1)[1])
        torch.testing.assert_close(mixer(x[:, :1]), alone)
        decoder = HashedAttention(8, 2, chunk=4, rounds=2, sees=earlier)
        decoder.load_state_dict(mixer.state_dict())
        torch.testing.assert_close(decoder(x)[:, :1], alone)
        with vitrail.record(mixer) as seen:
            mixer(x[:, :3])
    (layer,) = seen.layers
    assert layer.weights.shape == (2, 2, 3, 3)
    assert not layer.weights.diagonal(dim1=-2, dim2=-1).any()


def test_what_is_recorded() -> None:
    mixer, x = HashedAttention(8, 2, chunk=4, rounds=3), draw(2, 11, 8)
    with torch.no_grad(), vitrail.record(mixer) as seen:
        mixer(x)
    (layer,) = seen.layers
    assert layer.weights.shape == (2, 2, 3, 3, 4, 8)
    torch.testing.assert_close(layer.weights.sum(-1), torch.ones(2, 2, 3, 3, 4))


def test_what_fills_the_last_chunk_is_not_seen() -> None:
    """A value of the filling would show, for its vectors are zero: here every value is one."""
    mixer = HashedAttention(8, 2, chunk=4, rounds=2)
    with torch.no_grad():
        mixer.out.weight.copy_(torch.eye(8))
        mixer.qv.proj.weight[8:] = 0
        mixer.qv.proj.weight[8:, 0] = 1
        x = draw(1, 11, 8)
        x[..., 0] = 1
        torch.testing.assert_close(mixer(x), torch.ones(1, 11, 8))


def test_later_tokens_are_hidden_where_the_order_counts() -> None:
    mixer, x = HashedAttention(16, 2, chunk=4, rounds=2, sees=earlier), draw(1, 32, 16)
    assert all(max(touched(mixer, x, i)) <= i for i in range(0, 32, 5))


def test_directions_follow_from_the_seed_and_are_saved() -> None:
    a, b, c = (HashedAttention(16, 2, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(a.directions, b.directions) and not torch.equal(a.directions, c.directions)
    assert "directions" in a.state_dict()


@pytest.mark.parametrize("training", (False, True))
def test_memory_grows_with_the_tokens(training: bool) -> None:
    mixer = HashedAttention(16, 2, chunk=16, rounds=2)

    def peak(tokens: int) -> int:
        x = draw(1, tokens, 16).requires_grad_(training)

        def call() -> object:
            with torch.set_grad_enabled(training):
                y = mixer(x)
                return torch.autograd.grad(y.sum(), [x]) if training else y
        return peak_bytes(call)
    assert peak(4096) < 4.3 * peak(1024)


def test_the_reversible_stack_has_the_gradients_of_the_plain_one() -> None:
    model, x = Reformer(32, 4, depth=6, chunk=8, rounds=2), draw(2, 50, 32)
    d = draw(2, 50, 64, seed=1)
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    y1, y2 = b, b
    for layer in model.layers.layers():
        y1, y2 = layer(y1, y2)
    parameters = list(model.parameters())
    ours = torch.autograd.grad(model(a), [a, *parameters], d)
    told = torch.autograd.grad(model.norm(torch.cat([y1, y2], -1)), [b, *parameters], d)
    assert max(apart(x, y) for x, y in zip(ours, told, strict=True)) < 1e-5


def test_rounding_throws_no_token_into_another_bucket() -> None:
    """An Mlp whose answers are far larger than the tokens: their inputs come back with an error of 0.03. With the
    buckets of the first run the gradient is near; buckets chosen anew would give another."""
    def error(anew: bool) -> float:
        torch.manual_seed(0)
        layers = Reformer(32, 4, depth=1, chunk=8, rounds=2).layers
        (layer,) = layers.layers()
        layer.g.get_parameter("mlp.fc2.weight").data *= 1e6
        if anew:
            layer.f.get_submodule("mix").choice = torch.nn.Identity()
        a, b = (draw(1, 256, 32).requires_grad_() for _ in range(2))
        d = draw(1, 256, 32, seed=1)
        (ours,), (told,) = torch.autograd.grad(layers(a, a)[0], [a], d), torch.autograd.grad(layer(b, b)[0], [b], d)
        return apart(ours, told)
    assert error(anew=False) < 0.02 < 0.1 < error(anew=True)


def test_the_stack_holds_no_layer_but_one() -> None:
    def peak(depth: int) -> int:
        model, x = Reformer(16, 2, depth=depth, chunk=16, rounds=2), draw(1, 512, 16).requires_grad_()
        return peak_bytes(lambda: torch.autograd.grad(model(x).sum(), [x]))
    assert peak(12) < 1.3 * peak(2)


def test_layers_hash_in_directions_of_their_own() -> None:
    first, second = (layer.f.get_buffer("mix.directions") for layer in Reformer(16, 2, depth=2).layers.layers())
    assert not torch.equal(first, second)


@pytest.mark.parametrize("wrong", ({"chunk": 0}, {"rounds": 0}))
def test_impossible_arguments(wrong: dict[str, int]) -> None:
    with pytest.raises(ModelError, match="a token at least"):
        HashedAttention(8, 2, **wrong)                              # type: ignore[arg-type]
