"""Tasks of text: losses over parts and wholes, scores, what is asked of a model and what it answers."""
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.tasks.writers import Tiny, TinyGaps, TinyText, model
from vitrail.core.errors import DataError, ModelError, SettingsError
from vitrail.data.loader import Loader
from vitrail.tasks.language.batches import collate
from vitrail.tasks.language.corpus import Pairs, Text, open_pairs, open_text
from vitrail.tasks.language.samples import CausalSamples, MaskedSamples, PairSamples
from vitrail.tasks.language.vocabulary import MARKS, PAD, Vocabulary
from vitrail.tasks.language.generate import fill, go_on, translate
from vitrail.tasks.language.causal import bigram_perplexity
from vitrail.tasks.language.kind import kind_of
from vitrail.tasks.language.losses import perplexity, token_loss
from vitrail.tasks.language.masked import commonest_accuracy
from vitrail.tasks.language.model import LanguageModel
from vitrail.tasks.language.objective import LanguageObjective
from vitrail.training.objective import part

PAIRS = open_pairs("toy", sentences=40)
WORDS = Vocabulary.of((*PAIRS.sources, *PAIRS.targets), "words")
PAGE = Text("page", (open_text("page").pieces[0][:1500],))
LETTERS = Vocabulary.of(PAGE.pieces, "characters")


def common(built: LanguageModel, **changes: Any) -> dict[str, Any]:
    return {"kind": kind_of(built.config.spec.kind), "build": lambda: built, "save": lambda model, folder: None,
            "data": {"fingerprint": "x"}, "seed": 0,
            "batch": 8, **changes}


def translation(**changes: Any) -> LanguageObjective:
    samples = PairSamples(PAIRS, WORDS, length=20)
    return LanguageObjective(train=samples, val=samples,
                           **common(model(Tiny(len(WORDS)), "translation", WORDS, 20), **changes))


def causal(**changes: Any) -> LanguageObjective:
    return LanguageObjective(train=CausalSamples(PAGE, LETTERS, length=12, stride=5),
                      val=CausalSamples(PAGE, LETTERS, length=12, stride=12, once=True),
                      **common(model(TinyText(len(LETTERS)), "causal", LETTERS), **changes))


def masked(**changes: Any) -> LanguageObjective:
    samples = MaskedSamples(PAGE, LETTERS, length=23, stride=20, seed=0)
    return LanguageObjective(train=samples, val=samples,
                      **common(model(TinyGaps(len(LETTERS)), "masked", LETTERS, 23), **changes))


TASKS = {"translation": translation, "causal": causal, "masked": masked}


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_the_loss_is_torchs_and_padding_counts_for_nothing(smoothing: float) -> None:
    made = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 7, 30, generator=made, requires_grad=True)
    expected = torch.randint(0, 30, (4, 7), generator=made)
    expected[2, 3:] = PAD
    found = token_loss(logits, expected, smoothing)
    wanted = F.cross_entropy(logits.flatten(0, 1), expected.flatten(), ignore_index=PAD, label_smoothing=smoothing,
                             reduction="sum")
    torch.testing.assert_close(found.smooth, wanted)
    torch.testing.assert_close(found.nll, F.cross_entropy(logits.flatten(0, 1), expected.flatten(), ignore_index=PAD,
                                                          reduction="sum"))
    gradient, = torch.autograd.grad(found.smooth, logits)
    assert (gradient[2, 3:] == 0).all() and (gradient[2, :3] != 0).any()
    right = logits.detach().argmax(-1).masked_fill(expected == PAD, PAD)
    assert token_loss(logits, right).hits == (right != PAD).sum() > 20


@pytest.mark.parametrize("name", TASKS)
def test_the_parts_of_a_batch_have_the_mean_loss_of_the_whole(name: str) -> None:
    task = TASKS[name](smoothing=0.1)
    network = task.model()
    whole = next(iter(task.batches(0, 1).epoch(0)))
    losses = task.loss(network, whole, 0)
    for of in (2, 4, 8):
        parts = [task.loss(network, part(whole, at, of), 0) for at in range(of)]
        shared = [task.loss(network, next(iter(task.batches(rank, of).epoch(0))), 0) for rank in range(of)]
        for key, value in losses.items():
            for found in (parts, shared):
                torch.testing.assert_close(torch.stack([p[key] for p in found]).mean(), value, rtol=1e-5, atol=1e-6)


def test_a_loss_is_the_mean_over_the_tokens() -> None:
    task = translation(smoothing=0.0)
    batch = next(iter(task.batches(0, 1).epoch(0)))
    found = task.loss(task.model(), batch, 0)
    logits = task.model()(batch.source, batch.target)
    wanted = F.cross_entropy(logits.flatten(0, 1), batch.expected.flatten(), ignore_index=PAD)
    torch.testing.assert_close(found["loss"], wanted)
    torch.testing.assert_close(found["nll"], wanted)
    assert 0 <= found["accuracy"] <= 1


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("batch", [1, 3, 8])
def test_scores_do_not_depend_on_the_batch(name: str, batch: int) -> None:
    one, other = (TASKS[name](batch=size) for size in (batch, 5))
    scores = [task.evaluate(task.model(), torch.device("cpu"), 0, 1) for task in (one, other)]
    assert scores[0] == pytest.approx(scores[1], rel=1e-5) and task_names(one) <= scores[0].keys()
    assert scores[0]["samples"] == len(one.val) and scores[0]["perplexity"] > 1


def task_names(task: LanguageObjective) -> set[str]:
    return {task.headline, "accuracy", "samples", "tokens"}


def test_exact_counts_the_sentences_that_greedy_decoding_writes() -> None:
    task = translation()
    network = task.model()
    written = tuple(translate(network, PAIRS.sources))
    half = (*written[:20], *PAIRS.targets[20:])
    known = Vocabulary.of((*PAIRS.sources, *PAIRS.targets), "words")
    own = LanguageObjective(train=task.train, val=PairSamples(replace(PAIRS, targets=half), known, length=21),
                          **common(network))
    right = sum(a == b for a, b in zip(half, written, strict=True))
    assert 20 <= right < 40 and own.evaluate(network, torch.device("cpu"), 0, 1)["exact"] == right / 40


def test_a_model_that_knows_nothing_has_the_perplexity_of_its_vocabulary() -> None:
    task = causal()
    network = task.model()
    with torch.no_grad():
        network.network.inner.out.zero_()                                           # type: ignore[union-attr]
    found = task.evaluate(network, torch.device("cpu"), 0, 1)
    assert found["perplexity"] == pytest.approx(len(LETTERS), rel=1e-5) and found["tokens"] == len(PAGE.pieces[0]) - 1
    assert perplexity(1e9, 1.0) == math.inf


def test_a_bigram_model_by_hand() -> None:
    train, held = [[7, 8, 7, 8, 7, 7]], [[7, 8], [8, 7]]
    # after 7: 8 twice, 7 once; after 8: 7 twice; one of the counts that may be added is 0.001, which suits best here
    wanted = math.exp(-(math.log(2.001 / 3.009) + math.log(2.001 / 2.009)) / 2)
    assert bigram_perplexity(train, held, 9) == pytest.approx(wanted)


def test_the_commonest_unit_is_answered_everywhere() -> None:
    task = masked()
    found = commonest_accuracy(task.train, task.val)
    asked = [e for i in range(len(task.val)) for e in task.val.sample(i, 0)[2] if e != PAD]
    space = LETTERS.numbers(" ")[0]
    assert found == asked.count(space) / len(asked) and 0.1 < found < 0.25
    assert task.baselines() == {"commonest unit": {"accuracy": found}}


@pytest.mark.parametrize("name", TASKS)
def test_a_task_describes_itself_and_shows_examples(name: str) -> None:
    task = TASKS[name]()
    about = task.describe()
    assert about["task"] == name and about["fingerprint"] == "x" and json.dumps(about)
    batch = next(iter(task.batches(0, 1).epoch(0)))
    assert task.names(batch) == [task.train.key(i) for i in batch.indices.tolist()]
    examples = task.kind.examples(task.model(), task.val, task.seed)
    assert examples and json.dumps(examples) and all(isinstance(v, str) for e in examples for v in e.values())
    saved: list[Any] = []
    TASKS[name](save=lambda model, folder: saved.append(folder)).save(task.model(), Path("there"))
    assert saved == [Path("there")]


@pytest.mark.parametrize("name", TASKS)
def test_what_does_not_go_together_is_refused(name: str) -> None:
    with pytest.raises(SettingsError, match="batch of 9999"):
        TASKS[name](batch=9999)
    with pytest.raises(SettingsError, match="3 processes"):
        TASKS[name]().batches(0, 3)
    other = next(task for task in TASKS if task != name)
    with pytest.raises(ModelError, match=f"for {other}, not for {name}"):
        TASKS[name](build=TASKS[other]().model).model()
    with pytest.raises(ModelError, match="LanguageModel"):
        TASKS[name]().save(nn.Linear(2, 2), Path("x"))


def test_a_translation_is_what_decoding_writes() -> None:
    network = model(Tiny(len(WORDS)), "translation", WORDS, 20)
    one, two = translate(network, PAIRS.sources[:2])
    assert translate(network, PAIRS.sources[1:2]) == [two] and one
    assert all(translate(network, PAIRS.sources[:2], beams=n) for n in (2, 5))
    with pytest.raises(DataError, match="longer than the 19"):
        translate(network, ["the cat " * 20])
    with pytest.raises(DataError, match="no text"):
        translate(network, ["the cat", " "])
    with pytest.raises(ModelError, match="not for causal"):
        go_on(network, "the cat")


def test_going_on_is_by_the_seed() -> None:
    network = model(TinyText(len(LETTERS)), "causal", LETTERS)
    one, = go_on(network, "We the", tokens=30, seed=1)
    assert len(one) == 30 and go_on(network, "We the", tokens=30, seed=1) == [one]
    assert go_on(network, "We the", tokens=30) != [one]
    assert len(go_on(network, "We the", tokens=5, count=3)) == 3
    with pytest.raises(DataError, match="no text"):
        go_on(network, "")


def test_gaps_are_filled() -> None:
    network = model(TinyGaps(len(LETTERS)), "masked", LETTERS, 23)
    found = fill(network, "When[MASK]n th[MASK]", top=3)
    assert len(found.text) == 10 and found.text.startswith("When") and [len(g) for g in found.gaps] == [3, 3]
    assert found.text[4] == found.gaps[0][0][0] and found.text[-1] == found.gaps[1][0][0]
    assert all(a[1] >= b[1] for gap in found.gaps for a, b in zip(gap, gap[1:], strict=False))
    assert not {unit for gap in fill(network, "[MASK]", top=99).gaps for unit, _ in gap} & set(MARKS)
    with pytest.raises(DataError, match="no gap"):
        fill(network, "When in")
    with pytest.raises(DataError, match="longer than the 21"):
        fill(network, "a" * 25 + "[MASK]")


def test_pairs_for_a_compiled_step_have_one_size() -> None:
    fixed = PairSamples(PAIRS, WORDS, length=20, fixed=True)
    sizes = {(b.source.shape[1], b.target.shape[1]) for b in Loader(fixed, collate, batch=2, drop_last=True).epoch(0)}
    assert len(sizes) == 1 and isinstance(PAIRS, Pairs)
