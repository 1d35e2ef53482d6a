"""What the papers say of one network only: how it is born, what it shares, what it holds, and what it shows."""
import math
from typing import Any

import pytest
import torch
from torch import nn

from tests.foundations.small import EVERY, TRANSLATORS, V, build, inputs, logits
from vitrail.core.card import TextFigures, Variant
from vitrail.core.errors import CheckpointError
from vitrail.explanation.record import record
from vitrail.foundations import bert, gpt, pre_norm, seq2seq, transformer
from vitrail.measure.text import text_cost
from vitrail.nn import PostResidual, Residual

ENTRIES = {name: entry for module in (bert, gpt, pre_norm, seq2seq, transformer)
           for name, entry in vars(module).items() if isinstance(entry, Variant)}


@pytest.mark.parametrize("name", ENTRIES)
def test_figures_are_exact(name: str) -> None:
    figures = ENTRIES[name].figures
    assert isinstance(figures, TextFigures)
    params, gflops = text_cost(ENTRIES[name])
    assert params == figures.params and round(gflops, 3) == pytest.approx(figures.gflops, abs=5.1e-4)
    if reported := figures.reported.get("params_m"):
        assert params / 1e6 == pytest.approx(reported, rel=0.07)


@pytest.mark.parametrize("kind", ("post-norm", "pre-norm", "bert", "gpt"))
def test_one_matrix_embeds_and_answers(kind: str) -> None:
    network, texts = build(kind), inputs(kind)
    assert [n for n, p in network.named_parameters() if p.ndim == 2 and V in p.shape] == ["tokens.weight"]
    unused = next(t for t in range(1, V) if not any((text == t).any() for text in texts))
    before = logits(network, *texts)
    with torch.no_grad():
        network.tokens.weight[unused] += 1
    changed = (logits(network, *texts) != before).any(0).any(0)
    assert changed[unused] and changed.sum() == 1


def test_attention_has_no_biases_in_the_transformer_and_has_them_in_bert_and_gpt() -> None:
    for kind, expected in (("post-norm", False), ("pre-norm", False), ("bert", True), ("gpt", True)):
        biased = {n for n, p in build(kind).named_parameters() if n.endswith("bias") and "mix.fn" in n}
        assert bool(biased) is expected


def test_where_the_norms_stand() -> None:
    post, pre = EVERY["post-norm"](), EVERY["pre-norm"]()
    assert {type(m) for m in post.modules()} & {PostResidual, Residual} == {PostResidual}
    assert {type(m) for m in pre.modules()} & {PostResidual, Residual} == {Residual}
    assert isinstance(post.encoded, nn.Identity) and isinstance(post.decoded, nn.Identity)
    assert isinstance(pre.encoded, nn.LayerNorm) and isinstance(pre.decoded, nn.LayerNorm)
    epsilons = {kind: {m.eps for m in EVERY[kind]().modules() if isinstance(m, nn.LayerNorm)} for kind in EVERY}
    assert epsilons == {"post-norm": {1e-6}, "pre-norm": {1e-6}, "bert": {1e-12}, "gpt": {1e-5}, "recurrent": set()}


@torch.no_grad()
def test_a_pre_norm_network_whose_branches_are_silent_is_its_last_norm() -> None:
    network, (source, target) = build("pre-norm"), inputs("pre-norm")
    last = [p for name, p in network.named_parameters() if ".fc2." in name or ".out.proj." in name]
    assert len(last) == 2 * (2 + 1) + 2 * (2 + 2)               # a weight of each branch, a bias of each Mlp
    for parameter in last:
        nn.init.zeros_(parameter)
    expected = network.decoded(network.embed(target)) @ network.tokens.weight.T
    torch.testing.assert_close(network(source, target), expected, atol=1e-12, rtol=1e-12)


def near(weight: torch.Tensor, std: float) -> bool:
    """Whether the deviation is `std`, within four standard errors of an estimate from this many numbers."""
    return abs(float(weight.detach().std()) / std - 1) < 4 / math.sqrt(2 * weight.numel())


def test_transformer_is_born_as_published() -> None:
    torch.manual_seed(0)
    network = transformer.transformer_tiny(dim=128, hidden=512)
    assert near(network.tokens.weight, 128 ** -0.5)
    for name, p in network.named_parameters():
        if name.endswith("bias"):
            assert (p == 0).all()
        elif p.ndim == 2 and name != "tokens.weight":
            parts = p.chunk(3 if "qkv" in name else 2 if "kv" in name else 1)
            for part in parts:
                bound = math.sqrt(6 / sum(part.shape))              # Xavier's, of each matrix by itself
                assert 0.99 * bound < part.abs().max() <= bound


def test_bert_is_born_as_published() -> None:
    torch.manual_seed(0)
    for name, p in bert.bert_tiny().named_parameters():
        if p.ndim == 2:
            assert p.abs().max() <= 0.04 and p.std() > 0.014        # a normal of 0.02, cut at two deviations
        elif "norm" not in name:
            assert (p == 0).all()


def test_gpt_is_born_as_published() -> None:
    torch.manual_seed(0)
    for name, p in gpt.gpt_tiny(depth=8).named_parameters():
        if p.ndim == 2:
            last = name.endswith(("out.proj.weight", "fc2.weight"))
            assert near(p, 0.01 if name == "places.weight" else 0.02 / 4 if last else 0.02), name
        elif "norm" not in name:
            assert (p == 0).all()


def test_rnnsearch_is_born_as_published() -> None:
    torch.manual_seed(0)
    network = seq2seq.seq2seq_tiny()
    for name, p in network.named_parameters():
        if name.endswith("bias") or name == "attend.score.weight":
            assert (p == 0).all()
        elif ".gates" in name or ".candidate" in name:
            for square in p.chunk(len(p) // p.shape[1]):
                torch.testing.assert_close(square @ square.T, torch.eye(len(square)), atol=1e-5, rtol=0)
        else:
            assert near(p, 0.001 if name.startswith("attend") else 0.01), name


def test_the_output_of_rnnsearch_is_of_the_state_before() -> None:
    """The logits of a step do not use the recurrent unit that takes the step's word in."""
    network, (source, target) = build("recurrent"), inputs("recurrent")
    with torch.no_grad():
        before, _ = network.step(target[:, 0], network.begin(source))
        network.cell.candidate.weight += 1
        after, _ = network.step(target[:, 0], network.begin(source))
    assert torch.equal(before, after)


@pytest.mark.parametrize("kind", ("bert", "gpt"))
def test_layouts_are_total_and_reversible(kind: str) -> None:
    network = build(kind)
    table = {"bert": bert, "gpt": gpt}[kind].KEYS["transformers"](EVERY[kind].settings())
    state = network.state_dict()
    back = table.translate(table.restore(state))
    assert back.keys() == state.keys() and all(torch.equal(back[k], state[k]) for k in state)


def test_the_released_files_have_other_names() -> None:
    for kind, module in (("bert", bert), ("gpt", gpt)):
        state, table = build(kind).state_dict(), module.KEYS["transformers"]({})
        theirs: dict[str, Any] = {}
        for key, value in table.restore(state).items():
            if "LayerNorm" in key:
                key = key.replace("weight", "gamma").replace("bias", "beta")
            theirs[key.removeprefix("transformer.")] = value
        assert theirs.keys() != table.restore(state).keys()
        assert table.translate(theirs).keys() == state.keys()
    with pytest.raises(CheckpointError):
        bert.KEYS["transformers"]({}).translate({"bert.encoder.layer.0.crossattention.self.query.weight": None})


@pytest.mark.parametrize("kind", ("post-norm", "pre-norm", "bert", "gpt"))
def test_the_recorder_sees_all_weights_and_changes_nothing(kind: str) -> None:
    network, texts = build(kind), inputs(kind)
    with torch.no_grad():
        expected = logits(network, *texts)
        with record(network) as seen:
            assert torch.equal(logits(network, *texts), expected)
    n, t, s = texts[0].shape[1], texts[-1].shape[1], texts[0] == 0
    assert len(seen) == (6 if kind in TRANSLATORS else 2)
    for name, weights in seen.items():
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1], dtype=weights.dtype))
        looks_back = kind == "gpt" or (name.startswith("decoder") and ".mix." in name)
        assert weights.shape[2:] == ((t, t) if looks_back else (t, n) if name.startswith("decoder") else (n, n))
        if looks_back:
            assert (weights.triu(1) == 0).all()
        else:
            assert (weights.movedim(-1, 1)[s] == 0).all() and (weights.movedim(-1, 1)[~s] > 0).all()


def test_the_recorder_sees_the_alignment_of_every_word() -> None:
    network, (source, target) = build("recurrent"), inputs("recurrent")
    with torch.no_grad(), record(network) as seen:
        network(source, target)
    assert len(seen.layers) == target.shape[1] and seen.names() == ["attend.softmax"]
    weights = torch.cat([layer.weights for layer in seen.layers], 2)                # (B, 1, T, S)
    torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1], dtype=weights.dtype))
    assert (weights[:, 0].mT[source == 0] == 0).all() and (weights[:, 0].mT[source != 0] > 0).all()


def test_dropout_falls_on_branches_and_embeddings_only_while_training() -> None:
    for kind in ("post-norm", "bert", "gpt"):
        network, texts = build(kind, dropout=0.5), inputs(kind)
        assert torch.equal(logits(network, *texts), logits(network, *texts))
        network.train()
        assert not torch.equal(logits(network, *texts), logits(network, *texts))
        branches = [m for m in network.modules() if isinstance(m, (PostResidual, Residual))]
        assert all(isinstance(m.drop, nn.Dropout) and m.drop.p == 0.5 for m in branches) and network.dropout.p == 0.5
