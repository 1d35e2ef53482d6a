"""A toy language: sentences of a small English grammar, and their translation by rules that can be undone.

    the old cat does not see two red birds in the garden today.
    hodi hortino mira solda la felaim rubaim du nevide.

There time and place come first and the verb last; adjectives follow their nouns and take their gender, number and
case; place becomes an ending; the verb takes the tense, the number of its subject and the negation. Nothing is lost
on the way: `back` writes the sentence that `there` translated.
"""
import random
from dataclasses import dataclass
from itertools import product
from typing import TypeVar

from vitrail.core.errors import DataError
from vitrail.core.seeds import derive_seed

T = TypeVar("T")

VOWELS = ("a", "e", "i", "o", "u")                  # no noun of the language starts with one
# English singular and plural -> the stem there, whose last letter is its gender
NOUNS = {("cat", "cats"): "mira", ("dog", "dogs"): "kano", ("bird", "birds"): "fela", ("king", "kings"): "duro",
         ("child", "children"): "nita", ("ship", "ships"): "palo"}
ADJECTIVES = {"": "", "old": "sold", "red": "rub", "small": "min", "big": "gart", "quiet": "tas"}
SINGULAR = {"the": "la", "a": "un"}
PLURAL = {"the": "la", "two": "du", "some": "kel"}
# the plain form, the third person, the past -> the stem there
VERBS = {("see", "sees", "saw"): "vid", ("love", "loves", "loved"): "am", ("follow", "follows", "followed"): "sek",
         ("hear", "hears", "heard"): "aud", ("find", "finds", "found"): "trov", ("carry", "carries", "carried"): "port"}
TENSES = {"present": "e", "past": "a", "future": "u"}
MOODS = ("statement", "negation", "question")
PLACES = {("", ""): "", **{(f"{word} the {name}", name): stem + ending
                           for (name, stem), (word, ending) in product(
    {"garden": "hort", "house": "dom", "hill": "mont", "river": "riv"}.items(),
    {"in": "ino", "on": "uro", "near": "eko", "behind": "opo"}.items())}}
TIMES = {"": "", "today": "hodi", "again": "denov", "at night": "nokte", "in spring": "printe"}


@dataclass(frozen=True)
class Phrase:
    """`two red birds`: number, article, adjective (or none), noun."""

    plural: bool
    article: str
    adjective: str
    noun: tuple[str, str]

    def english(self) -> str:
        article = "an" if self.article == "a" and self.adjective[:1] in VOWELS else self.article
        return _joined(article, self.adjective, self.noun[self.plural])

    def translated(self, case: str) -> str:
        stem, articles = NOUNS[self.noun], PLURAL if self.plural else SINGULAR
        ending = "i" * self.plural + case
        adjective = ADJECTIVES[self.adjective] + stem[-1] + ending if self.adjective else ""
        return _joined(stem + ending, adjective, articles[self.article])


@dataclass(frozen=True)
class Sentence:
    """Who does what to whom, how it is said, where and when."""

    subject: Phrase
    verb: tuple[str, str, str]
    tense: str
    mood: str
    object: Phrase
    place: tuple[str, str] = ("", "")
    time: str = ""

    def english(self) -> str:
        plain, third, past = self.verb
        helper = {"present": "do" if self.subject.plural else "does", "past": "did", "future": "will"}[self.tense]
        direct = {"present": plain if self.subject.plural else third, "past": past, "future": f"will {plain}"}
        start, said = self.subject.english(), direct[self.tense]
        if self.mood == "negation":
            said = f"{helper} not {plain}"
        if self.mood == "question":
            start, said = f"{helper} {start}", plain
        return _joined(start, said, self.object.english(), self.place[0], self.time) + self._mark()

    def translated(self) -> str:
        verb = _joined("ne" * (self.mood == "negation") + VERBS[self.verb] + TENSES[self.tense]
                       + "n" * self.subject.plural, "ka" * (self.mood == "question"))
        return _joined(TIMES[self.time], PLACES[self.place], self.subject.translated(""), self.object.translated("m"),
                       verb) + self._mark()

    def _mark(self) -> str:
        return "?" if self.mood == "question" else "."


def phrases() -> list[Phrase]:
    """Every phrase of the language."""
    return [Phrase(plural, article, adjective, noun) for plural, articles in ((False, SINGULAR), (True, PLURAL))
            for article, adjective, noun in product(articles, ADJECTIVES, NOUNS)]


def draw(count: int, seed: int) -> list[tuple[str, str]]:
    """`count` different sentences with their translations. Adjective, place and time are each left out half the time,
    so that short sentences are as usual as long ones."""
    rng = random.Random(derive_seed(seed, "toy"))
    found: dict[Sentence, None] = {}
    while len(found) < count:
        verb, tense, mood = rng.choice(list(VERBS)), rng.choice(list(TENSES)), rng.choice(MOODS)
        found[Sentence(_phrase(rng), verb, tense, mood, _phrase(rng), _some(rng, list(PLACES)),
                       _some(rng, list(TIMES)))] = None
    return [(sentence.english(), sentence.translated()) for sentence in found]


def _phrase(rng: random.Random) -> Phrase:
    plural = rng.random() < 0.5
    return Phrase(plural, rng.choice(list(PLURAL if plural else SINGULAR)), _some(rng, list(ADJECTIVES)),
                  rng.choice(list(NOUNS)))


def _some(rng: random.Random, choices: list[T]) -> T:
    """The first, which is none, half the time; else one of the others."""
    return choices[0] if rng.random() < 0.5 else rng.choice(choices[1:])


def read(text: str) -> Sentence:
    """The sentence that a text of the other language says. Raises DataError where it breaks a rule."""
    words = text.rstrip(".?").split()
    time = _next(words, _TIMES, "")
    place = _next(words, _PLACES, ("", ""))
    subject, whom = _read_phrase(words, ""), _read_phrase(words, "m")
    verb, tense, negated, _ = _need(words, _VERBS, "a verb")
    mood = "question" if _next(words, {"ka": True}, False) else "negation" if negated else "statement"
    found = Sentence(subject, verb, tense, mood, whom, place, time)
    if (right := found.translated()) != text:
        raise DataError(f"{text!r} breaks a rule: {right!r} does not")
    return found


def back(text: str) -> str:
    """The English sentence whose translation this is. Raises DataError where it is none."""
    return read(text).english()


def _read_phrase(words: list[str], case: str) -> Phrase:
    noun, plural = _need(words, _NOUNS[case], "a noun")
    ending = NOUNS[noun][-1] + "i" * plural + case
    adjective = _next(words, {stem + ending: name for name, stem in ADJECTIVES.items() if name}, "")
    article = _need(words, {there: here for here, there in (PLURAL if plural else SINGULAR).items()}, "an article")
    return Phrase(plural, article, adjective, noun)


def _next(words: list[str], known: dict[str, T], other: T) -> T:
    """What the next word means, which is taken where it is known."""
    return known[words.pop(0)] if words and words[0] in known else other


def _need(words: list[str], known: dict[str, T], what: str) -> T:
    if not words or words[0] not in known:
        raise DataError(f"{what} is expected where {' '.join(words[:1]) or 'the text ends'!r} stands")
    return known[words.pop(0)]


def _joined(*parts: str) -> str:
    return " ".join(part for part in parts if part)


_TIMES = {there: here for here, there in TIMES.items() if there}
_PLACES = {there: here for here, there in PLACES.items() if there}
_NOUNS = {case: {stem + "i" * plural + case: (noun, plural) for noun, stem in NOUNS.items() for plural in (False, True)}
          for case in ("", "m")}
_VERBS = {"ne" * negated + stem + ending + "n" * plural: (verb, tense, negated, plural)
          for (verb, stem), (tense, ending), negated, plural
          in product(VERBS.items(), TENSES.items(), (False, True), (False, True))}
