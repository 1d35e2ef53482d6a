"""Decoding against exhaustive search, against forward passes, and by chance."""
from itertools import product

import pytest
import torch

from tests.tasks.writers import Tiny, TinyText, log_probability, ranked
from vitrail.core.errors import SettingsError
from vitrail.tasks.language.vocabulary import END, MARKS, PAD, START
from vitrail.tasks.language.decode import NEVER, beam, greedy, length_penalty, sample

FIRST = len(MARKS)
UNITS, LONGEST = 3, 4
SOURCES = torch.tensor([[7, 8, 9], [9, 9, PAD], [8, PAD, PAD], [7, 7, 7]])


@pytest.mark.parametrize("alpha", [0.0, 0.6, 2.0])
@pytest.mark.parametrize("seed", range(6))
def test_a_wide_beam_finds_what_exhaustive_search_finds(seed: int, alpha: float) -> None:
    network = Tiny(FIRST + UNITS, seed=seed, peak=1.5)
    found = beam(network, SOURCES, beams=40, longest=LONGEST, alpha=alpha)
    for row, source in enumerate(SOURCES):
        best = ranked(network, source[None], units=UNITS, longest=LONGEST, alpha=alpha)
        assert len(best) == 40 == len(found[row])
        assert [h.tokens for h in found[row]] == [text for _, text in best]
        assert [h.score for h in found[row]] == pytest.approx([score for score, _ in best], rel=1e-4, abs=1e-4)


def test_scores_are_the_models_own_and_a_wider_beam_finds_better_texts() -> None:
    wins = dict.fromkeys((1, 2, 4, 8), 0)
    for seed, beams in product(range(12), wins):
        network = Tiny(FIRST + UNITS, seed=seed)
        for row, found in enumerate(beam(network, SOURCES, beams=beams, longest=LONGEST)):
            best = ranked(network, SOURCES[row:row + 1], units=UNITS, longest=LONGEST, alpha=0.6)
            known = {text: score for score, text in best}
            assert 1 <= len(found) <= beams and found == sorted(found, key=lambda h: -h.score)
            assert len({h.tokens for h in found}) == len(found)
            for h in found:
                assert h.score == pytest.approx(known[h.tokens], rel=1e-4, abs=1e-4)
            wins[beams] += found[0].tokens == best[0][1]
    assert wins[1] < wins[2] < wins[4] < wins[8] and wins[8] >= 45, wins            # of 48 best texts of all


def test_rows_do_not_leak_into_one_another() -> None:
    network = Tiny(FIRST + 5, seed=3)
    together = beam(network, SOURCES, beams=3, longest=6)
    for row, source in enumerate(SOURCES):
        alone, = beam(network, source[None], beams=3, longest=6)
        assert [h.tokens for h in alone] == [h.tokens for h in together[row]]
        assert greedy(network, source[None], longest=6)[0] == greedy(network, SOURCES, longest=6)[row]


@pytest.mark.parametrize("seed", range(8))
def test_one_beam_without_penalty_is_greedy(seed: int) -> None:
    network = Tiny(FIRST + 5, seed=seed)
    texts = greedy(network, SOURCES, longest=30)
    found = beam(network, SOURCES, beams=1, longest=31, alpha=0.0)
    for text, (hypothesis,) in zip(texts, found, strict=True):
        assert hypothesis.tokens == tuple(text) or len(text) == 30


def test_greedy_takes_the_likeliest_of_what_may_be_written() -> None:
    network = Tiny(FIRST + 5, seed=1)
    text = greedy(network, SOURCES[:1], longest=9)[0]
    logits = network(SOURCES[:1], torch.tensor([[START, *text]]))[0]
    logits[:, list(NEVER)] = -torch.inf
    assert logits.argmax(-1)[:len(text)].tolist() == text and END not in text
    assert len(text) == 9 or logits.argmax(-1)[len(text)] == END
    assert greedy(network, SOURCES[:1], longest=0) == [[]]


def test_a_penalty_favours_long_texts() -> None:
    assert length_penalty(1, 0.6) == 1 and length_penalty(7, 1.0) == 2 and length_penalty(9, 0.0) == 1
    longer = 0
    for seed in range(10):
        network = Tiny(FIRST + UNITS, seed=seed, peak=1.5)
        short, long = (len(beam(network, SOURCES, beams=40, longest=LONGEST, alpha=a)[0][0].tokens) for a in (0.0, 2.0))
        assert long >= short
        longer += long > short
    assert longer


@pytest.mark.parametrize("settings", [{"beams": 0}, {"longest": 0}, {"alpha": -1.0}])
def test_a_search_that_cannot_be_is_refused(settings: dict[str, float]) -> None:
    with pytest.raises(SettingsError, match="beam"):
        beam(Tiny(FIRST + UNITS), SOURCES, **{"beams": 2, "longest": 3, **settings})     # type: ignore[arg-type]


def test_texts_are_drawn_as_the_model_says() -> None:
    network = TinyText(FIRST + 4, seed=2)
    drawn = sample(network, [8], count=4000, longest=1, window=8, temperature=0.7, seed=5)
    logits = network(torch.tensor([[8]]))[0, 0]
    logits[list(NEVER)] = -torch.inf
    logits[END] = -torch.inf
    wanted = (logits / 0.7).softmax(-1)
    counts = torch.bincount(torch.tensor(drawn)[:, 0], minlength=FIRST + 4) / 4000
    assert (counts - wanted).abs().max() < 0.03 and counts[:FIRST].sum() == 0
    assert drawn == sample(network, [8], count=4000, longest=1, window=8, temperature=0.7, seed=5)
    assert drawn != sample(network, [8], count=4000, longest=1, window=8, temperature=0.7, seed=6)
    best = set(wanted.topk(2).indices.tolist())
    assert {row[0] for row in sample(network, [8], count=500, longest=1, window=8, temperature=5.0, top=2)} == best


def test_without_temperature_the_likeliest_is_taken_and_the_state_is_the_text() -> None:
    network = TinyText(FIRST + 4, seed=2)
    one, two = sample(network, [7, 9, 8], count=2, longest=5, window=20, temperature=0)
    assert one == two and len(one) == 5
    logits = network(torch.tensor([[7, 9, 8, *one]]))[0]
    logits[:, [*NEVER, END]] = -torch.inf
    assert logits.argmax(-1)[2:-1].tolist() == one


@pytest.mark.parametrize(("prompt", "window"), [(3, 8), (8, 8), (20, 8), (1, 1), (5, 2)])
def test_a_text_longer_than_the_window_goes_on_within_it(prompt: int, window: int) -> None:
    network = TinyText(FIRST + 4, seed=2)
    texts = sample(network, [7 + n % 4 for n in range(prompt)], count=3, longest=25, window=window)
    assert [len(t) for t in texts] == [25] * 3 and network.farthest <= window


@pytest.mark.parametrize("settings", [{"temperature": -1.0}, {"top": -1}, {"count": 0}, {"prompt": []}, {"window": 0}])
def test_what_cannot_be_drawn_is_refused(settings: dict[str, float]) -> None:
    given = {"prompt": [7], "count": 1, "longest": 2, "window": 4, **settings}
    with pytest.raises(SettingsError, match="go on"):
        sample(TinyText(FIRST + 4), **given)                                             # type: ignore[arg-type]


def test_the_tiny_writer_steps_as_it_reads() -> None:
    network = Tiny(FIRST + UNITS, seed=1)
    state, total = network.begin(SOURCES[:1]), 0.0
    for token, following in ((START, 8), (8, 7), (7, END)):
        logits, state = network.step(torch.tensor([token]), state)
        total += logits.log_softmax(-1)[0, following].item()
    assert total == pytest.approx(log_probability(network, SOURCES[:1], (8, 7)))
