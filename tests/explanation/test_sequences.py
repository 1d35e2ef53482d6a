"""Translators and models of text are explained word by word, and trained ones point at the word that was translated."""
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from tests.explanation.toy import LENGTH, sentences, shifted, translator
from tests.foundations import small
from tests.foundations.small import TRANSLATORS, inputs, logits
from vitrail.core.errors import ExplainError, VitrailError
from vitrail.explanation.record import record
from vitrail.explanation.sequences import METHODS, TokenExplanation, TokenTarget, explain_tokens


def build(kind: str, **changes: Any) -> Any:
    """The same network at every call."""
    torch.manual_seed(0)
    return small.build(kind, **changes)


def score(output: Tensor, value: tuple[int, int]) -> Tensor:
    return output[:, value[0], value[1]]


def words(text: Tensor, tokens: str = "target") -> list[TokenTarget]:
    """Each word of a text (N,), read off its place."""
    return [TokenTarget(value=(i, int(word)), tokens=tokens, index=i, name=f"word {int(word)}")
            for i, word in enumerate(text)]


def translated(kind: str, row: int = 0, **options: Any) -> TokenExplanation:
    network, (source, target) = build(kind), inputs(kind)
    return explain_tokens(network, (source[row:row + 1], target[row:row + 1]), score, words(target[row]), **options)


@pytest.mark.parametrize("kind", TRANSLATORS)
@pytest.mark.parametrize("method", METHODS)
def test_a_translated_word_rests_on_its_source_word(kind: str, method: str) -> None:
    """Word i of a sentence turned round translates word L-1-i; the largest value is there by chance once in four."""
    network = translator(kind)
    source, target = sentences(25, 99_999)
    right = network(source, shifted(target)).argmax(-1) == target
    assert right.float().mean() >= 0.95
    peaks = []
    for i in range(len(source)):
        explanation = explain_tokens(network, (source[i:i + 1], shifted(target[i:i + 1])), score, words(target[i]),
                                     method=method)
        peaks += (explanation.relevance["source"].argmax(-1) == np.arange(LENGTH)[::-1]).tolist()
    assert np.mean(peaks) >= 0.85


@pytest.mark.parametrize("kind", TRANSLATORS)
def test_every_method_says_what_each_word_holds_of_each_set(kind: str) -> None:
    source, target = inputs(kind)
    for method in METHODS:
        explanation = translated(kind, method=method)
        assert explanation.relevance["source"].shape == (target.shape[1], source.shape[1])
        assert not explanation.relevance["source"][:, source[0].numpy() == 0].any(), "padding counts nothing"
        for matrix in explanation.relevance.values():
            assert matrix.dtype == np.float32 and np.isfinite(matrix).all() and (matrix >= 0).all()
        if "target" in explanation.relevance:
            assert not np.triu(explanation.relevance["target"], 1).any(), "no word rests on a later one"
        output = build(kind)(source, target)[0]
        expected = [float(output[i, word].detach()) for i, word in enumerate(target[0])]
        assert explanation.scores == pytest.approx(expected, rel=1e-5)


def test_relevance_of_a_word_is_of_its_own_score() -> None:
    """A target explained alone, and among others, has the same numbers; another word at its place has others."""
    network, (source, target) = build("post-norm"), inputs("post-norm")
    every, texts = words(target[1]), (source[1:], target[1:])
    together = explain_tokens(network, texts, score, every)
    for i, alone in enumerate(every):
        row = explain_tokens(network, texts, score, [alone]).relevance["source"][0]
        assert np.array_equal(row, together.relevance["source"][i])
    other = TokenTarget(value=(2, 9), tokens="target", index=2)
    assert not np.array_equal(explain_tokens(network, texts, score, [other]).relevance["source"][0],
                              together.relevance["source"][2])


@pytest.mark.parametrize("method", METHODS)
def test_gpt_holds_nothing_of_later_tokens_and_bert_holds_some(method: str) -> None:
    for kind in ("gpt", "bert"):
        network, texts = build(kind), tuple(text[1:] for text in inputs(kind))

        def of_token(output: Any, value: tuple[int, int]) -> Tensor:
            return score(output if isinstance(output, Tensor) else output.tokens, value)
        explanation = explain_tokens(network, texts, of_token, words(texts[0][0], "text"), method=method)
        assert list(explanation.relevance) == ["text"]
        later = np.triu(explanation.relevance["text"], 1)
        assert later.any() == (kind == "bert")
        assert (np.tril(explanation.relevance["text"]) > 0).any(-1).all()


def test_relevance_of_gpt_is_equation_6() -> None:
    network, (tokens,) = build("gpt"), inputs("gpt")
    with record(network, gradients=True) as recording:
        value = logits(network, tokens[1:])[0, 4, 3]
    weights = [layer.weights for layer in recording.layers]
    R = np.eye(tokens.shape[1])
    for A, slope in zip(weights, torch.autograd.grad(value, weights), strict=True):
        R = R + (A * slope).relu()[0].mean(0).detach().numpy() @ R
    target = TokenTarget(value=(4, 3), tokens="text", index=4)
    found = explain_tokens(network, (tokens[1:],), score, [target]).relevance["text"][0]
    np.testing.assert_allclose(found, R[4], rtol=1e-6)


@pytest.mark.parametrize("kind", TRANSLATORS)
def test_explaining_leaves_the_network_as_it_was(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network, texts = build(kind, **({} if kind == "recurrent" else {"dropout": 0.5})), inputs(kind)
    targets = words(texts[1][0])
    first = tuple(text[:1] for text in texts)
    expected = network(*first)
    network.train()
    relevant = explain_tokens(network, first, score, targets)
    assert network.training and not any(p._forward_hooks or p._forward_pre_hooks for p in network.modules())
    assert all(p.grad is None for p in network.parameters())
    network.requires_grad_(False)                                   # a frozen network has the same gradients
    assert np.array_equal(explain_tokens(network, first, score, targets).relevance["source"],
                          relevant.relevance["source"])
    monkeypatch.setattr(torch.autograd, "grad", None)               # neither of these asks for a gradient
    for method in ("rollout", "attention"):
        explanation = explain_tokens(network, first, score, targets, method=method)
        assert explanation.scores.tolist() == relevant.scores.tolist()
    with torch.no_grad(), record(network.eval()):
        assert torch.equal(network(*first), expected)


def test_an_explanation_is_drawn_saved_and_read(tmp_path: Path) -> None:
    source, target = inputs("post-norm")
    names = {"source": [f"s{i}" for i in range(source.shape[1])]}
    explanation = translated("post-norm", 1, tokens=names)
    content = explanation.to_json()
    assert content["tokens"]["source"] == names["source"] and content["tokens"]["target"] == ["0", "1", "2", "3", "4"]
    assert content["targets"][2]["relevance"]["source"] == explanation.relevance["source"][2].tolist()
    assert content["targets"][2]["name"] == f"word {int(target[1, 2])}" and content["method"] == "relevance"
    explanation.save(tmp_path / "a.json")
    assert json.loads((tmp_path / "a.json").read_text("utf-8")) == content
    explanation.save(tmp_path / "a.png")
    drawn = explanation.draw()
    assert np.array_equal(np.asarray(Image.open(tmp_path / "a.png")), np.asarray(drawn))
    cells = np.asarray(drawn).astype(float).sum(-1)[-4 - 28 * 5:-4, -4 - 28 * 7:-4].reshape(5, 28, 7, 28)
    assert (cells == cells[:, :1, :, :1]).all(), "one colour a cell"
    assert np.array_equal(cells[:, 0, :, 0].argmax(-1), explanation.relevance["source"].argmax(-1))
    own = np.asarray(explanation.draw("target")).astype(float).sum(-1)[-4 - 28 * 5:-4, -4 - 28 * 5:-4]
    darkest = own.min()
    assert all(own[14 + 28 * i, 14 + 28 * i] == darkest for i in range(5)), "what a token is to itself is left out"
    with pytest.raises(VitrailError, match="exists already"):
        explanation.save(tmp_path / "a.png")
    with pytest.raises(ExplainError, match=r"\.json"):
        explanation.save(tmp_path / "a.txt")
    with pytest.raises(ExplainError, match="Did you mean 'source'"):
        explanation.draw("sorce")


def test_inputs_may_have_names() -> None:
    network, (source, target) = build("pre-norm"), inputs("pre-norm")
    named = explain_tokens(network, {"source": source[:1], "target": target[:1]}, score, words(target[0]))
    assert np.array_equal(named.relevance["source"], translated("pre-norm").relevance["source"])


def test_what_cannot_be_explained_is_said() -> None:
    network, texts = build("post-norm"), tuple(text[:1] for text in inputs("post-norm"))
    targets = words(texts[1][0])
    with pytest.raises(ExplainError, match="Did you mean 'rollout'"):
        explain_tokens(network, texts, score, targets, method="rolout")
    with pytest.raises(ExplainError, match="nothing to explain"):
        explain_tokens(network, texts, score, [])
    with pytest.raises(ExplainError, match="a tensor of shape"):
        explain_tokens(network, inputs("post-norm"), score, targets)
    with pytest.raises(ExplainError, match="Did you mean 'target'"):
        explain_tokens(network, texts, score, [TokenTarget(value=(0, 1), tokens="targets", index=0)])
    with pytest.raises(ExplainError, match="5 tokens, 0 to 4, .* token 5"):
        explain_tokens(network, texts, score, [TokenTarget(value=(0, 1), tokens="target", index=5)])
    with pytest.raises(ExplainError, match="7 tokens, and 1 names"):
        explain_tokens(network, texts, score, targets, tokens={"source": ["a"]})
    with pytest.raises(ExplainError, match="no set of tokens 'text'"):
        explain_tokens(network, texts, score, targets, tokens={"text": ["a"]})
    with pytest.raises(ExplainError, match="zero everywhere"):
        explain_tokens(network, texts, lambda output, value: torch.zeros(1), targets)
    with pytest.raises(ExplainError, match="no attention to record"):
        explain_tokens(nn.Linear(2, 2), (torch.zeros(1, 2),), score, targets)
