"""Who sees whom, and writing step by step: what is true of every network that writes a text."""
from typing import Any

import pytest
import torch
from torch import nn

from tests.foundations.small import EVERY, TRANSLATORS, WRITERS, V, build, inputs, logits, reach, words
from vitrail.core.errors import ModelError
from vitrail.nn import Stack
from vitrail.nn.decoding import EXCLUDED, causal, padding


def begin(kind: str, network: Any, source: torch.Tensor) -> Any:
    """The state before the first token: a translator's is of its source."""
    return network.begin(len(source)) if kind == "gpt" else network.begin(source)


def whole(kind: str, network: Any, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return logits(network, target) if kind == "gpt" else logits(network, source, target)


@pytest.mark.parametrize("kind", WRITERS)
def test_no_output_depends_on_what_comes_later(kind: str) -> None:
    network, texts = build(kind), inputs(kind)
    embedding = network.target if kind == "recurrent" else network.tokens
    seen = reach(network, embedding, texts, call=-1)
    assert (seen.triu(1) == 0).all()
    assert (seen.tril() + torch.ones_like(seen).triu(1) > 0).all()


@pytest.mark.parametrize("kind", TRANSLATORS)
def test_every_output_depends_on_every_word_of_the_source_and_on_no_padding(kind: str) -> None:
    network, (source, target) = build(kind), inputs(kind)
    source = source.flip(0)                                         # the second is the one with padding
    seen = reach(network, network.source if kind == "recurrent" else network.tokens, (source, target), call=0)
    real = source[1] != 0
    assert real.any() and not real.all()
    assert (seen[:, real] > 0).all() and (seen[:, ~real] == 0).all()


def test_bert_sees_both_ways_and_no_padding() -> None:
    network, (tokens, segments) = build("bert"), inputs("bert")
    tokens = tokens.flip(0)
    seen, real = reach(network, network.tokens, (tokens, segments), call=0), tokens[1] != 0
    assert (seen[real][:, real] > 0).all() and (seen[real][:, ~real] == 0).all()


@pytest.mark.parametrize("kind", WRITERS)
def test_steps_answer_as_the_whole_does(kind: str) -> None:
    network, source, target = build(kind), inputs(kind, rows=3)[0], words(3, 9, seed=8)
    with torch.no_grad():
        expected, state = whole(kind, network, source, target), begin(kind, network, source)
        for t in range(9):
            found, state = network.step(target[:, t], state)
            assert found.shape == (3, V)
            torch.testing.assert_close(found, expected[:, t], atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("kind", WRITERS)
def test_rows_of_a_state_can_be_taken(kind: str) -> None:
    """As a beam search does: rows leave, change places, and come twice."""
    network, source, target = build(kind), inputs(kind, rows=3)[0], words(3, 4, seed=8)
    rows, last = torch.tensor([2, 0, 2, 2]), words(4, seed=9)
    with torch.no_grad():
        state = begin(kind, network, source)
        for t in range(4):
            _, state = network.step(target[:, t], state)
        state = state.take(rows)
        found, _ = network.step(last, state)
        again, _ = network.step(last, state)                        # a step leaves the state that it is given as it was
        expected = whole(kind, network, source[rows], torch.cat([target[rows], last[:, None]], 1))[:, -1]
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-12)
    assert torch.equal(found, again)


@pytest.mark.parametrize("kind", TRANSLATORS)
def test_more_padding_changes_nothing(kind: str) -> None:
    network, (source, target) = build(kind), inputs(kind)
    padded = torch.cat([source, torch.zeros(2, 5, dtype=torch.int64)], 1)
    with torch.no_grad():
        torch.testing.assert_close(network(padded, target), network(source, target), atol=1e-12, rtol=1e-12)
        alone = network(source[:1, :5], target[:1])                 # the first text without its padding
        torch.testing.assert_close(network(source, target)[:1], alone, atol=1e-12, rtol=1e-12)


def test_more_padding_changes_nothing_for_bert_and_gpt() -> None:
    bert, (tokens, segments), gpt = build("bert"), inputs("bert"), build("gpt")
    none = torch.zeros(2, 5, dtype=torch.int64)
    with torch.no_grad():
        short, long = bert(tokens, segments), bert(torch.cat([tokens, none], 1), torch.cat([segments, none], 1))
        torch.testing.assert_close(long.tokens[:, :7], short.tokens, atol=1e-12, rtol=1e-12)
        torch.testing.assert_close(long.next, short.next, atol=1e-12, rtol=1e-12)
        torch.testing.assert_close(gpt(torch.cat([tokens, none], 1))[:, :7], gpt(tokens), atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("kind", EVERY)
@pytest.mark.parametrize("fused", (True, False))
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16))
def test_a_text_of_nothing_but_padding_is_no_nan(kind: str, fused: bool, dtype: torch.dtype) -> None:
    network, texts = build(kind, dtype=dtype), inputs(kind)
    texts[0][0] = 0
    for part in network.modules():
        if hasattr(part, "fused"):
            part.fused = fused
    assert logits(network, *texts).isfinite().all()


def test_masks() -> None:
    like = torch.zeros(1, dtype=torch.float16)
    assert torch.equal(causal(3, like) == 0, torch.ones(3, 3, dtype=torch.bool).tril())
    both = causal(3, like) + padding(torch.tensor([[5, 0, 7]]), 0, like)
    assert both.shape == (1, 1, 3, 3) and both.isfinite().all() and both[0, 0, 0, 1] == 2 * EXCLUDED
    assert (both + 100).softmax(-1)[0, 0, 2, 1] == 0


@pytest.mark.parametrize("kind", ("gpt", "bert"))
def test_a_text_that_is_too_long_is_refused(kind: str) -> None:
    network = build(kind)
    long = words(1, 17)
    with pytest.raises(ModelError, match="17 tokens is longer than the 16"):
        network(long) if kind == "gpt" else network(long, long * 0)


def test_a_step_beyond_the_last_place_is_refused() -> None:
    network = build("gpt", length=2)
    state = network.begin(1)
    for _ in range(2):
        _, state = network.step(words(1), state)
    with pytest.raises(ModelError, match="length=3"):
        network.step(words(1), state)


@pytest.mark.parametrize("kind", ("post-norm", "gpt"))
def test_checkpointing_changes_no_gradient(kind: str) -> None:
    network, texts = build(kind).train(), inputs(kind)
    found = []
    for on in (False, True):
        for part in network.modules():
            if isinstance(part, Stack):
                part.checkpointing = on
        found.append(torch.autograd.grad(logits(network, *texts).square().sum(), list(network.parameters())))
    for plain, checkpointed in zip(*found, strict=True):
        torch.testing.assert_close(plain, checkpointed, atol=0, rtol=0)


@pytest.mark.parametrize("kind", EVERY)
def test_gradients_are_right_and_reach_every_parameter(kind: str) -> None:
    cut: dict[str, Any] = {} if kind == "recurrent" else dict(depth=1)
    network, texts = build(kind, vocabulary=9, dim=6, hidden=5, **cut), tuple(t % 9 for t in inputs(kind, n=5))
    names, values = zip(*((n, p.detach().requires_grad_()) for n, p in network.named_parameters()), strict=True)

    def call(*given: torch.Tensor) -> tuple[torch.Tensor, ...]:
        found = torch.func.functional_call(network, dict(zip(names, given, strict=True)), texts)
        return (found,) if isinstance(found, torch.Tensor) else (found.tokens, found.next)
    assert torch.autograd.gradcheck(call, values, fast_mode=True)
    gradients = torch.autograd.grad(torch.cat([f.sin().flatten() for f in call(*values)]).sum(), values)
    for name, gradient in zip(names, gradients, strict=True):
        assert (gradient != 0).any(), name


class Logits(nn.Module):
    """A network that answers with one tensor."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, *texts: torch.Tensor) -> torch.Tensor:
        return logits(self.network, *texts)


@pytest.mark.parametrize("kind", EVERY)
def test_export(kind: str) -> None:
    network, texts = Logits(build(kind, dtype=torch.float32)), inputs(kind)
    with torch.no_grad():
        found = torch.export.export(network, texts).module()(*texts)
        torch.testing.assert_close(found, network(*texts), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", WRITERS)
def test_mixed_precision(kind: str) -> None:
    """As the loop runs it: the masks are float32 and the products are not."""
    network, source, target = build(kind, dtype=torch.float32), inputs(kind, rows=3)[0], words(3, 4, seed=8)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected, state = whole(kind, network, source, target), begin(kind, network, source)
        for t in range(4):
            found, state = network.step(target[:, t], state)
            torch.testing.assert_close(found.float(), expected[:, t].float(), atol=0.2, rtol=0.1)
