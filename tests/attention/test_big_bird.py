"""What is true of BigBird only: the plan of blocks, who sees whom, memory."""
import pytest
import torch

import vitrail
from tests.attention.proof import draw
from vitrail.attention.big_bird import BlockSparseAttention, random_blocks
from vitrail.core.errors import ModelError
from vitrail.measure.memory import peak_bytes
from vitrail.nn import SelfAttention


def test_the_plan_draws_blocks_that_are_not_seen_anyway() -> None:
    for blocks in (9, 20):
        plan = random_blocks(4, blocks, 3, 0)
        assert len(plan) == 4 and all(len(head) == blocks - 2 for head in plan)
        for head in plan:
            for i, row in enumerate(head, 1):
                assert len(set(row)) == 3
                assert not set(row) & {0, i - 1, i, i + 1, blocks - 1} and all(0 < j < blocks - 1 for j in row)


def test_the_plan_reaches_every_block_and_is_fixed() -> None:
    plan = random_blocks(8, 20, 3, 0)
    assert plan == random_blocks(8, 20, 3, 0) != random_blocks(8, 20, 3, 1)
    assert len({str(head) for head in plan}) == 8, "every head has its own"
    assert {j for head in plan for row in head for j in row} == set(range(1, 19))


def test_who_sees_whom() -> None:
    n, blocks = 2, 12
    mixer, x = BlockSparseAttention(8, 1, block=n, picks=2), draw(1, n * blocks, 8)
    (plan,) = random_blocks(1, blocks, 2, 0)

    def seen(block: int) -> set[int]:
        a = x.clone().requires_grad_()
        mixer(a)[0, n * block].sum().backward()
        assert a.grad is not None
        return {i // n for i in a.grad[0].abs().sum(-1).nonzero().flatten().tolist()}
    assert seen(0) == seen(blocks - 1) == set(range(blocks))
    for i in range(1, blocks - 1):
        assert seen(i) == {0, i - 1, i, i + 1, blocks - 1, *plan[i - 1]}


def test_few_blocks_are_plain_attention() -> None:
    mixer, plain = BlockSparseAttention(16, 2, block=4, picks=3), SelfAttention(16, 2)
    plain.load_state_dict(mixer.state_dict())
    for tokens in (1, 7, 32):
        x = draw(2, tokens, 16)
        assert torch.equal(mixer(x), plain(x))
    x = draw(2, 33, 16)
    assert not torch.allclose(mixer(x), plain(x))


def test_what_is_recorded() -> None:
    mixer, x = BlockSparseAttention(8, 2, block=3, picks=1), draw(2, 29, 8)
    with torch.no_grad(), vitrail.record(mixer) as seen:
        mixer(x)
    ends, blocks = seen.layers
    assert ends.weights.shape == (2, 2, 6, 29) and blocks.weights.shape == (2, 2, 8, 3, 18)
    for layer in seen.layers:
        torch.testing.assert_close(layer.weights.sum(-1), torch.ones(layer.weights.shape[:-1]))
    assert not blocks.weights[..., -1].any(), "the token that fills the last block"
    assert not blocks.weights[:, :, 0, :, 3:6].any(), "the first block, seen as a global one, and not as a neighbour"


@pytest.mark.parametrize("training", (False, True))
def test_memory_grows_with_the_tokens(training: bool) -> None:
    mixer = BlockSparseAttention(16, 2, block=16, picks=2)

    def peak(tokens: int) -> int:
        x = draw(1, tokens, 16).requires_grad_(training)

        def call() -> object:
            with torch.set_grad_enabled(training):
                y = mixer(x)
                return torch.autograd.grad(y.sum(), [x]) if training else y
        return peak_bytes(call)
    assert peak(4096) < 4.3 * peak(1024)


@pytest.mark.parametrize("wrong", ({"block": 0}, {"picks": -1}))
def test_impossible_arguments(wrong: dict[str, int]) -> None:
    with pytest.raises(ModelError, match="block-sparse attention needs"):
        BlockSparseAttention(8, 2, **wrong)                         # type: ignore[arg-type]
