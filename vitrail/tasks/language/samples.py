"""What a text is cut into: pairs of sentences, stretches to go on with, stretches with gaps."""
import hashlib
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from vitrail.core.errors import DataError
from vitrail.core.seeds import derive_seed
from vitrail.data.dataset import DatasetBase, Sample, Skipped, printable
from vitrail.tasks.language.batches import CausalBatch, MaskedBatch, TranslationBatch, padded, shared
from vitrail.tasks.language.corpus import Pairs, Text
from vitrail.tasks.language.vocabulary import CLASS, END, MARKS, MASK, PAD, SEPARATOR, START, Vocabulary

SHARE = 0.15            # of the units, to be predicted from the rest


class TextDataset(DatasetBase):
    """The base of data sets of text: their samples are numbers of units, and no split or class is known of them."""

    text: Text | Pairs
    vocabulary: Vocabulary

    def read(self, index: int) -> Sample:
        raise NotImplementedError

    def digest(self, index: int) -> str:
        return hashlib.sha256(str(self.read(index).inputs).encode()).hexdigest()

    def fingerprint(self) -> str:
        """That of the text, however it is cut."""
        return self.text.fingerprint()


class PairSamples(TextDataset):
    """Sentences and their translations as numbers.

    length: the most units of a sentence, its end included. Padded to the longest of a batch, or always to the longest
    of all (`fixed`), which a compiled step wants. Raises DataError, naming the line, for a sentence that is longer.
    """

    def __init__(self, pairs: Pairs, vocabulary: Vocabulary, *, length: int, fixed: bool = False):
        self.name = pairs.name
        self.text = self.pairs = pairs
        self.vocabulary = vocabulary
        self.fixed = fixed
        self.skipped = pairs.skipped
        self.sources = [[*vocabulary.numbers(text), END] for text in pairs.sources]
        self.translations = [vocabulary.numbers(text) for text in pairs.targets]
        for key, source, target in zip(pairs.keys, self.sources, self.translations, strict=True):
            if (longest := max(len(source), len(target) + 1)) > length:
                raise DataError(f"{printable(pairs.name)}, {key}: a sentence of {longest - 1} {vocabulary.kind} is "
                                f"longer than {length - 1}: --length {longest} takes it, --on-error skip leaves it out")

    def __len__(self) -> int:
        return len(self.pairs)

    def key(self, index: int) -> str:
        return self.pairs.keys[index]

    def read(self, index: int) -> Sample:
        return Sample(self.key(index), {"source": self.sources[index]}, {"translation": self.translations[index]})

    def targets(self, index: int) -> dict[str, Any]:
        return {"translation": self.translations[index]}

    def group(self, index: int) -> str:
        return self.pairs.sources[index]                        # what one sentence may become stays together

    def batch(self, indices: Sequence[int], epoch: int, mine: slice) -> TranslationBatch:
        everything = range(len(self)) if self.fixed else indices
        wide, long = (max(len(rows[i]) for i in everything) for rows in (self.sources, self.translations))
        here = indices[mine]
        return TranslationBatch(
            **shared(indices, mine, [len(self.translations[i]) + 1 for i in indices]),
            source=padded([self.sources[i] for i in here], wide),
            target=padded([[START, *self.translations[i]] for i in here], long + 1),
            expected=padded([[*self.translations[i], END] for i in here], long + 1))


def without_long(pairs: Pairs, kind: str, length: int) -> Pairs:
    """The pairs that PairSamples takes; the others are noted as skipped."""
    empty = Vocabulary(kind, ())
    sizes = [max(len(empty.numbers(text)) for text in pair) + 1
             for pair in zip(pairs.sources, pairs.targets, strict=True)]
    left = [Skipped(pairs.keys[i], f"a sentence of {size - 1} {kind} is longer than {length - 1}")
            for i, size in enumerate(sizes) if size > length]
    kept = pairs.subset([i for i, size in enumerate(sizes) if size <= length])
    if not len(kept):
        raise DataError(f"{printable(pairs.name)}: no pair is left, for every one has a sentence of more than "
                        f"{length - 1} {kind}: give a larger --length")
    return replace(kept, skipped=(*pairs.skipped, *left))


class Stretches(TextDataset):
    """The base of samples of running text: stretches of `width` units that begin `stride` units apart; the last of a
    piece ends with it, and a piece that is shorter is one stretch. Raises DataError where there is none of two units.
    """

    def __init__(self, text: Text, vocabulary: Vocabulary, *, width: int, stride: int):
        self.name = text.name
        self.text = text
        self.vocabulary = vocabulary
        self.width = width
        self.pieces = [numbers for numbers in map(vocabulary.numbers, text.pieces) if len(numbers) > 1]
        self.starts = [(piece, at) for piece, numbers in enumerate(self.pieces)
                       for last in [max(len(numbers) - width, 0)] for at in [*range(0, last, stride), last]]
        if not self.starts:
            raise DataError(f"{printable(text.name)}: this text has no two {vocabulary.kind} to learn from")

    def __len__(self) -> int:
        return len(self.starts)

    def units(self, index: int) -> list[int]:
        """The numbers of a stretch."""
        piece, at = self.starts[index]
        return self.pieces[piece][at:at + self.width]

    def read(self, index: int) -> Sample:
        return Sample(self.key(index), {"tokens": self.units(index)})

    def key(self, index: int) -> str:
        return printable(f"the text at {self.vocabulary.text(self.units(index)[:24])!r}")


class CausalSamples(Stretches):
    """Stretches of at most `length` units, each expected from those before it.

    once: what two stretches share is expected in the first of them only, so that a score counts every unit once.
    """

    def __init__(self, text: Text, vocabulary: Vocabulary, *, length: int, stride: int, once: bool = False):
        super().__init__(text, vocabulary, width=length + 1, stride=stride)
        self.known = [0] * len(self.starts)                     # units at a stretch's start that need no answer
        for index in range(1, len(self.starts) if once else 0):
            (before, began), (piece, at) = self.starts[index - 1:index + 1]
            self.known[index] = max(0, began + length - at) if piece == before else 0

    def batch(self, indices: Sequence[int], epoch: int, mine: slice) -> CausalBatch:
        here = [(self.units(i), self.known[i]) for i in indices[mine]]
        width = self.width - 1
        return CausalBatch(
            **shared(indices, mine, [len(self.units(i)) - 1 - self.known[i] for i in indices]),
            tokens=padded([units[:-1] for units, _ in here], width),
            expected=padded([[*[PAD] * known, *units[known + 1:]] for units, known in here], width))


class MaskedSamples(Stretches):
    """Two segments with gaps (BERT, arXiv:1810.04805, section 3.1): [CLASS] first [SEPARATOR] second [SEPARATOR].

    The second segment is what follows the first, or, half the time, the second half of another stretch. Of the units
    15 % are to be predicted; of these 80 % are masked, 10 % replaced by any unit, 10 % left. What is drawn depends on
    seed, epoch and sample alone. length: of the whole, marks included.
    """

    def __init__(self, text: Text, vocabulary: Vocabulary, *, length: int, stride: int, seed: int):
        super().__init__(text, vocabulary, width=length - 3, stride=stride)
        self.length, self.seed = length, seed

    def batch(self, indices: Sequence[int], epoch: int, mine: slice) -> MaskedBatch:
        made = [self.sample(i, epoch) for i in indices]
        tokens, segments, expected, follows = zip(*made[mine], strict=True)
        return MaskedBatch(**shared(indices, mine, [sum(number != PAD for number in row[2]) for row in made]),
                           tokens=padded(tokens, self.length), segments=padded(segments, self.length),
                           expected=padded(expected, self.length), next=torch.tensor(follows))

    def sample(self, index: int, epoch: int) -> tuple[list[int], list[int], list[int], int]:
        """Tokens, segments, what is expected where, and 0 where the second segment follows the first, else 1."""
        rng = random.Random(derive_seed(self.seed, "masks", epoch, index))
        units = self.units(index)
        half = len(units) // 2
        first, second, other = units[:half], units[half:], 0
        if len(self) > 1 and rng.random() < 0.5:
            place = rng.randrange(len(self) - 1)
            foreign = self.units(place + (place >= index))
            second, other = foreign[len(foreign) // 2:], 1
        tokens = [CLASS, *first, SEPARATOR, *second, SEPARATOR]
        segments = [0] * (half + 2) + [1] * (len(second) + 1)
        places = [at for at, number in enumerate(tokens) if number not in (CLASS, SEPARATOR)]
        expected = [PAD] * len(tokens)
        for at in rng.sample(places, max(1, round(SHARE * len(places)))):
            expected[at] = tokens[at]
            fate = rng.random()
            if fate < 0.8:
                tokens[at] = MASK
            elif fate < 0.9:
                tokens[at] = rng.randrange(len(MARKS), len(self.vocabulary))
        return tokens, segments, expected, other
