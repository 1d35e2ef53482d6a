"""Texts as data: the toy language and its way back, the vocabulary, the readers, the splits, and what a batch holds."""
import hashlib
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch

from vitrail.core.errors import CheckpointError, DataError, SettingsError
from vitrail.tasks.language import toy
from vitrail.data.loader import Loader
from vitrail.tasks.language.batches import TranslationBatch, collate
from vitrail.tasks.language.corpus import Pairs, Text, open_pairs, open_text, split_pairs, split_text
from vitrail.tasks.language.samples import CausalSamples, MaskedSamples, PairSamples, without_long
from vitrail.tasks.language.vocabulary import CLASS, END, MARKS, MASK, PAD, SEPARATOR, START, UNKNOWN, Vocabulary
from vitrail.training.objective import part

PHRASES = toy.phrases()


def test_the_example_in_the_docstring_is_true() -> None:
    here, there = (line.strip() for line in (toy.__doc__ or "").splitlines()[2:4])
    assert toy.read(there).translated() == there and toy.back(there) == here


def sentences() -> list[toy.Sentence]:
    """Every pair of phrases; and every verb in every tense and mood with every place and time, for one and for many."""
    verbs, places, times = list(toy.VERBS), list(toy.PLACES), list(toy.TIMES)
    found = [toy.Sentence(subject, verbs[n % 6], list(toy.TENSES)[n % 3], toy.MOODS[n // 3 % 3], whom,
                          places[n % len(places)], times[n % len(times)])
             for n, (subject, whom) in enumerate(product(PHRASES, PHRASES))]
    found += [toy.Sentence(subject, verb, tense, mood, PHRASES[7], place, time)
              for subject, verb, tense, mood, place, time in
              product((PHRASES[0], PHRASES[-1]), verbs, toy.TENSES, toy.MOODS, places, times)]
    return found


def test_translating_back_is_the_inverse() -> None:
    english, translated = set(), set()
    for sentence in sentences():
        there = sentence.translated()
        assert toy.read(there) == sentence
        english.add(sentence.english())
        translated.add(there)
    assert len(english) == len(translated) == len(set(sentences())) > 40_000        # and nothing is said twice alike


@pytest.mark.parametrize(("text", "said"), [
    ("", "a noun"), ("mira", "an article"), ("mira la fela la vide.", "a noun"), ("mira la felam la.", "a verb"),
    ("mira la felam la viden.", "breaks a rule"), ("mira la felam la vide?", "breaks a rule"),
    ("mira la felam la nevide ka?", "breaks a rule"), ("mira la felam la vide", "breaks a rule"),
    ("mira soldo la felam la vide.", "an article"), ("mira la felam la vide vide.", "breaks a rule"),
    ("mira du felam la vide.", "an article")])
def test_what_breaks_a_rule_is_not_read(text: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        toy.back(text)


def test_sentences_are_drawn_without_repetition_and_by_the_seed() -> None:
    drawn = toy.draw(500, 3)
    assert len(set(drawn)) == 500 and drawn == toy.draw(500, 3) and drawn != toy.draw(500, 4)
    assert drawn[:100] == toy.draw(100, 3) and all(toy.back(there) == here for here, there in drawn)
    short = sum(len(here.split()) <= 6 for here, _ in drawn)
    assert 25 < short < 250                                     # short ones are not rare, nor the rule


@pytest.mark.parametrize("kind", ["characters", "words"])
def test_a_vocabulary_reads_and_writes(kind: str) -> None:
    text = "The king's ships, \"all\" (three) of them, don't sail; why?"
    known = Vocabulary.of([text, "a b"], kind)
    assert known.text(known.numbers(text)) == (text if kind == "characters" else text.replace('"all"', '" all "'))
    assert len(known) == len(MARKS) + len(known.units) and min(known.numbers(text)) >= len(MARKS)
    assert Vocabulary.of(["a b", text], kind) == known == Vocabulary.from_json(known.to_json())
    assert known.joined(("a b", ", c", "d")) == ("a b, c d" if kind == "words" else "a b, cd")
    assert known.numbers("\u00e9")[0] == UNKNOWN and known.unknown("a \u00e9 a") == ["\u00e9"]


def test_the_most_frequent_units_are_kept() -> None:
    known = Vocabulary.of(["c c c b b a"], "words", most=2)
    assert known.units == ("b", "c") and known.text(known.numbers("a b")) == "[UNKNOWN] b"
    assert Vocabulary.of([], "words").numbers("a") == [UNKNOWN]


@pytest.mark.parametrize("data", [None, {}, {"kind": "words", "units": "ab"}, {"kind": "words", "units": ["a", "a"]},
                                  {"kind": "letters", "units": []}, {"kind": "words", "units": [1]}])
def test_a_damaged_vocabulary_is_refused(data: Any) -> None:
    with pytest.raises(CheckpointError, match="vocabulary"):
        Vocabulary.from_json(data)


def test_the_page_is_the_declaration() -> None:
    page, = open_text("page").pieces
    assert page.startswith("In Congress, July 4, 1776.") and page.endswith(" our Fortunes and our sacred Honor.")
    assert page.count("\nHe has ") == 17 and page.count("\nFor ") == 9 and len(page.split()) == 1335
    assert hashlib.sha256(page.encode()).hexdigest().startswith("7b937cc9e4fb9a4c")


@pytest.mark.parametrize(("name", "data", "said"), [
    ("a.txt", b"", "no text"), ("a.txt", b" \n\t\n", "no text"), ("a.txt", b"one\ntwo \xff\n", "line 2.*0xff.*UTF-8"),
    ("a.txt", b"one\n\ntwo\0", "line 3.*null"), ("a.tsv", b"a\tb", "cannot be learned from here"),
    ("a.doc", b"text", "page"), ("pgae", None, "Did you mean 'page'")])
def test_what_is_no_text_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, data: bytes | None,
                                    said: str) -> None:
    monkeypatch.chdir(tmp_path)
    if data is not None:
        Path(name).write_bytes(data)
    with pytest.raises(DataError, match=f"(?s){name}.*{said}"):
        open_text(name)


@pytest.mark.parametrize(("data", "said"), [
    (b"", "no pair"), (b"\n\n", "no pair"), (b"a\tb\nonly one\n", "line 2: it has 1 column,"),
    (b"a\tb\tc\n", "line 1: it has 3 columns"), (b"a\tb\n\tc\n", "line 2.*empty"), (b"a\tb\n\nc\t \n", "line 3.*empty"),
    (b"a\tb\n\xc3\n", "line 2.*UTF-8")])
def test_lines_that_are_no_pairs_are_named(tmp_path: Path, data: bytes, said: str) -> None:
    file = tmp_path / "pairs.tsv"
    file.write_bytes(data)
    with pytest.raises(DataError, match=f"pairs.tsv.*{said}"):
        open_pairs(str(file))


def test_lines_that_are_no_pairs_may_be_left_out(tmp_path: Path) -> None:
    file = tmp_path / "pairs.tsv"
    file.write_bytes("\ufeffone\teins\r\n\r\nlost\r\ntwo \t zwei\r\n".encode())
    found = open_pairs(str(file), on_error="skip")
    assert (found.sources, found.targets, found.keys) == (("one", "two"), ("eins", "zwei"), ("line 1", "line 4"))
    assert [s.key for s in found.skipped] == ["line 3"]


@pytest.mark.parametrize("name", ["nowhere.txt", "a\0.txt", "folder.txt"])
def test_a_file_that_is_not_there_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder.txt").mkdir()
    with pytest.raises(DataError):
        open_text(str(tmp_path / name))


def test_a_text_is_split_into_what_is_learned_and_what_is_held_out() -> None:
    page = open_text("page")
    train, held = split_text(page, fraction=0.1, seed=0)
    assert (train, held) == split_text(page, fraction=0.1, seed=0) != split_text(page, fraction=0.1, seed=1)
    assert 0.08 < sum(map(len, held.pieces)) / len(page.pieces[0]) < 0.12
    whole = sorted(" ".join((*train.pieces, *held.pieces)).split())
    assert whole == sorted(page.pieces[0].split())                          # no word is lost, cut or in both
    assert all(piece in page.pieces[0] for piece in (*train.pieces, *held.pieces))
    assert train.fingerprint() != held.fingerprint() == split_text(page, fraction=0.1, seed=0)[1].fingerprint()
    with pytest.raises(DataError, match="too short"):
        split_text(Text("x", ("a b c",)), fraction=0.5, seed=0)
    with pytest.raises(DataError, match="too short"):
        split_text(Text("x", ("a" * 500,)), fraction=0.5, seed=0)


def test_pairs_of_one_sentence_go_to_one_side() -> None:
    names = tuple(f"s{n % 40}" for n in range(80))
    pairs = Pairs("x", names, tuple(map(str, range(80))), tuple(map(str, range(80))))
    train, held = split_pairs(pairs, fraction=0.25, seed=0)
    assert len(set(held.sources)) == 10 and not set(held.sources) & set(train.sources) and len(train) + len(held) == 80
    more = Pairs("x", (*names, "new"), (*pairs.targets, "n"), (*pairs.keys, "n"))
    assert set(train.sources) - set(split_pairs(more, fraction=0.25, seed=0)[0].sources) <= {"new", *train.sources}
    with pytest.raises(DataError, match="too few"):
        split_pairs(pairs.subset([0]), fraction=0.5, seed=0)


def pairs(count: int = 10) -> PairSamples:
    found = open_pairs("toy", sentences=count)
    return PairSamples(found, Vocabulary.of((*found.sources, *found.targets), "words"), length=20)


def test_a_batch_of_pairs() -> None:
    samples = pairs()
    batch = samples.batch([3, 1], 0, slice(0, 2))
    source, target, expected = batch.source.tolist(), batch.target.tolist(), batch.expected.tolist()
    words = samples.pairs
    for row, index in enumerate((3, 1)):
        n = len(samples.translations[index])
        assert source[row] == [*samples.sources[index], *[PAD] * (len(source[row]) - len(samples.sources[index]))]
        assert target[row][:n + 1] == [START, *samples.translations[index]] and set(target[row][n + 1:]) <= {PAD}
        assert expected[row][:n + 1] == [*samples.translations[index], END] and set(expected[row][n + 1:]) <= {PAD}
    known = Vocabulary.of((*words.sources, *words.targets), "words")
    assert known.text(samples.translations[3]) == words.targets[3]
    assert batch.share.item() == (batch.expected != PAD).sum().item() / 2 and samples.key(3) == "sentence 4"


def test_sentences_that_are_too_long_are_named_or_left_out() -> None:
    found = open_pairs("toy", sentences=50)
    known = Vocabulary.of((*found.sources, *found.targets), "words")
    with pytest.raises(DataError, match="toy, sentence [0-9]+: a sentence of [0-9]+ words.*--length"):
        PairSamples(found, known, length=9)
    left = without_long(found, "words", 9)
    assert 0 < len(left) < 50 and len(left) + len(left.skipped) == 50 and len(PairSamples(left, known, length=9))
    with pytest.raises(DataError, match="no pair is left"):
        without_long(found, "words", 3)


@pytest.mark.parametrize("of", [1, 2, 4])
def test_batches_are_shared_out_whatever_the_processes(of: int) -> None:
    samples = pairs(30)
    def two_epochs(rank: int, of: int) -> list[TranslationBatch]:
        batches = Loader(samples, collate, batch=8, seed=5, shuffle=True, drop_last=True, rank=rank, of=of)
        return [batch for epoch in (0, 1) for batch in batches.epoch(epoch)]
    whole, parts = two_epochs(0, 1), [two_epochs(rank, of) for rank in range(of)]
    assert len(whole) == 6
    for step, batch in enumerate(whole):
        here = [p[step] for p in parts]
        for name in ("indices", "source", "target", "expected"):
            torch.testing.assert_close(torch.cat([getattr(b, name) for b in here]), getattr(batch, name))
        assert {b.share.item() for b in here} == {batch.share.item()}
        assert isinstance(batch, TranslationBatch) and torch.equal(part(batch, 1, 2).source, batch.source[4:])
    assert sorted(torch.cat([b.indices for b in whole[:3]]).tolist()) != list(range(24))    # an order of its own
    assert [b.indices.tolist() for b in whole[:3]] != [b.indices.tolist() for b in whole[3:]]


def test_an_epoch_goes_on_from_a_step() -> None:
    batches = Loader(pairs(30), collate, batch=8, seed=5, shuffle=True, drop_last=True)
    assert [b.indices.tolist() for b in batches.epoch(1, 2)] == [b.indices.tolist() for b in batches.epoch(1)][2:]
    last = [len(b) for b in Loader(pairs(30), collate, batch=8, rank=1, of=2).epoch(0)]
    assert last == [4, 4, 4, 3] and len(Loader(pairs(9), collate, batch=8, rank=0, of=2)) == 2
    # none of the last one
    assert [len(b) for b in Loader(pairs(9), collate, batch=8, rank=0, of=2).epoch(0)] == [4]


@pytest.mark.parametrize(("changes", "said"), [({"batch": 31}, "31"), ({"batch": 9, "of": 2}, "2 processes")])
def test_batches_that_cannot_be_are_refused(changes: dict[str, int], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        Loader(pairs(30), collate, drop_last=True, **changes)


def running(length: int = 30, *, kind: str = "characters") -> tuple[Text, Vocabulary]:
    text = Text("x", ("the quick brown fox jumps over the lazy dog, and goes home"[:length], "ab", "c"))
    return text, Vocabulary.of(text.pieces, kind)


@pytest.mark.parametrize("length", [1, 3, 7, 29, 40])
def test_every_unit_of_a_held_out_text_is_expected_once(length: int) -> None:
    text, known = running()
    samples = CausalSamples(text, known, length=length, stride=length, once=True)
    batch = samples.batch(range(len(samples)), 0, slice(None))
    asked = batch.expected[batch.expected != PAD].tolist()
    assert asked == [n for piece in text.pieces if len(piece) > 1 for n in known.numbers(piece)[1:]]
    assert batch.tokens.shape[1] == length and batch.share.item() == pytest.approx(len(asked) / len(samples))
    for tokens, expected in zip(batch.tokens.tolist(), batch.expected.tolist(), strict=True):
        for at, number in enumerate(expected[:-1]):
            assert number in (PAD, tokens[at + 1]) or tokens[at + 1] == PAD


def test_stretches_reach_the_end_of_their_pieces() -> None:
    text, known = running()
    samples = CausalSamples(text, known, length=8, stride=5)
    assert [at for piece, at in samples.starts if piece == 0] == [0, 5, 10, 15, 20, 21] and samples.starts[-1] == (1, 0)
    assert samples.key(0) == "the text at 'the quick'"
    with pytest.raises(DataError, match="no two characters"):
        CausalSamples(Text("x", ("a", "b")), known, length=8, stride=5)


def test_gaps_are_as_in_bert() -> None:
    text = Text("x", (open_text("page").pieces[0][:4000],))
    known = Vocabulary.of(text.pieces, "characters")
    samples = MaskedSamples(text, known, length=43, stride=1, seed=0)
    counts = {"masked": 0, "kept": 0, "other": 0, "asked": 0, "units": 0, "foreign": 0}
    for index in range(1500):
        tokens, segments, expected, other = samples.sample(index, 0)
        units = samples.units(index)
        assert len(tokens) == 43 and tokens[0] == CLASS and tokens[21] == SEPARATOR == tokens[-1]
        assert segments == [0] * 22 + [1] * 21
        truth = [e if e != PAD else t for t, e in zip(tokens, expected, strict=True)]
        assert truth[1:21] == units[:20] and (truth[22:42] == units[20:] or other)
        assert all(e == PAD for t, e in zip(tokens, expected, strict=True) if t in (CLASS, SEPARATOR))
        asked = [(t, e) for t, e in zip(tokens, expected, strict=True) if e != PAD]
        counts["asked"] += len(asked)
        counts["units"] += 40
        counts["masked"] += sum(t == MASK for t, _ in asked)
        counts["kept"] += sum(t == e for t, e in asked)
        counts["other"] += sum(t not in (e, MASK) for t, e in asked)
        counts["foreign"] += other
    assert counts["asked"] / counts["units"] == 0.15
    shares = {name: counts[name] / counts["asked"] for name in ("masked", "kept", "other")}
    assert shares == pytest.approx({"masked": 0.8, "kept": 0.1, "other": 0.1}, abs=0.015)
    assert counts["foreign"] / 1500 == pytest.approx(0.5, abs=0.04)
    assert samples.sample(7, 0) == samples.sample(7, 0) != samples.sample(7, 1)
    batch = samples.batch([5, 6, 7], 0, slice(1, 3))
    assert batch.tokens[1].tolist() == samples.sample(7, 0)[0] and len(batch.next) == 2 and batch.share.item() == 6


def test_a_short_text_is_padded() -> None:
    text, known = running()
    samples = MaskedSamples(text, known, length=50, stride=1, seed=0)
    batch = samples.batch(range(len(samples)), 0, slice(None))
    assert len(samples) == 2 and batch.tokens.shape == (2, 50)
    assert (batch.expected[batch.tokens == PAD] == PAD).all() and (batch.segments[batch.tokens == PAD] == 0).all()
