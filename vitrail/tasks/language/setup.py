"""From the settings of a training to its texts, its model and its objective."""
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from vitrail.core.catalogue import find
from vitrail.core.errors import SettingsError
from vitrail.core.task import Options
from vitrail.data.split import Splits
from vitrail.models import create_model, save_model
from vitrail.tasks.language.settings import LanguageSettings
from vitrail.tasks.language.corpus import Pairs, Text, open_pairs, open_text, split_pairs, split_text
from vitrail.tasks.language.kind import kind_of
from vitrail.tasks.language.objective import LanguageObjective
from vitrail.tasks.language.samples import CausalSamples, MaskedSamples, PairSamples, TextDataset, without_long
from vitrail.tasks.language.spec import LanguageSpec
from vitrail.tasks.language.vocabulary import Vocabulary

STRETCHES = {"causal": 1000, "masked": 4000}                # an epoch; a gap is asked for in few places of one


@dataclass(frozen=True)
class _Texts:
    """The texts to learn from and those held out, the units that the former are made of, and how they were made."""

    train: Pairs | Text
    val: Pairs | Text
    vocabulary: Vocabulary
    record: Mapping[str, Any]


def check(settings: LanguageSettings) -> None:
    """Raises ModelError or SettingsError where the model cannot be as the settings say; no numbers are computed."""
    find(settings.model.name, "foundation")
    spec_of(settings)


def spec_of(settings: LanguageSettings) -> LanguageSpec:
    """What the model will be, but for its vocabulary."""
    if settings.training.strategy == "fsdp":
        raise SettingsError("strategy = 'fsdp' is not for models of language, which write word by word: give ddp or "
                            "single")
    with torch.device("meta"):
        model = create_model(settings.model.name, vocabulary=Vocabulary("words", ("a", "word")),
                             length=settings.data.length, **settings.model.arguments())
    spec = model.config.spec
    assert isinstance(spec, LanguageSpec)
    if spec.length < 8:
        raise SettingsError(f"the setting 'length' is {spec.length}, and texts of fewer than 8 tokens teach nothing")
    return spec


def open_splits(settings: LanguageSettings) -> Splits:
    """The texts as the settings name them, cut for the model. Raises DataError where they cannot be read, and
    SettingsError where both sides are one text."""
    spec = spec_of(settings)
    texts = _open(settings, spec)
    vocabulary = texts.vocabulary
    length = spec.length
    stride = settings.data.stride or _stride(texts, spec)
    train: TextDataset
    val: TextDataset
    if isinstance(texts.train, Pairs) and isinstance(texts.val, Pairs):
        train = PairSamples(texts.train, vocabulary, length=length, fixed=settings.training.compile)
        val = PairSamples(texts.val, vocabulary, length=length)
    else:
        assert isinstance(texts.train, Text) and isinstance(texts.val, Text), "both sides are opened alike"
        if spec.kind == "causal":
            train = CausalSamples(texts.train, vocabulary, length=length, stride=stride)
            val = CausalSamples(texts.val, vocabulary, length=length, stride=length, once=True)
        else:
            train = MaskedSamples(texts.train, vocabulary, length=length, stride=stride, seed=settings.training.seed)
            val = MaskedSamples(texts.val, vocabulary, length=length, stride=length - 3, seed=settings.training.seed)
    return Splits(train, val, {**texts.record, "stride": stride})


def _open(settings: LanguageSettings, spec: LanguageSpec) -> _Texts:
    data = settings.data
    if data.val == data.source:
        raise SettingsError(f"val is {data.val!r}, the very text that is learned from: leave it out, and "
                            f"a share of {data.val_fraction:g} is held out")
    pairs = spec.kind == "translation"
    kind = data.units
    if kind == "auto":
        kind = "words" if pairs or data.source == "toy" else "characters"

    def opened(name: str) -> Any:
        if not pairs:
            return open_text(name, sentences=data.sentences, seed=settings.training.seed)
        text = open_pairs(name, sentences=data.sentences, seed=settings.training.seed, on_error=data.on_error)
        return without_long(text, kind, spec.length) if data.on_error == "skip" else text
    whole = opened(data.source)
    record: dict[str, Any] = {"how": "named", "val": data.val}
    if data.val:
        train = whole
        val = opened(data.val)
    else:
        cut = split_pairs if pairs else split_text
        train, val = cut(whole, fraction=data.val_fraction, seed=settings.training.seed)
        record = {"how": "a share", "fraction": data.val_fraction, "seed": settings.training.seed}
    texts: Sequence[str] = (*train.sources, *train.targets) if pairs else train.pieces
    return _Texts(train, val, Vocabulary.of(texts, kind, most=data.most), record)


def _stride(texts: _Texts, spec: LanguageSpec) -> int:
    """As far apart as gives some `STRETCHES` of a text, and no farther than they are long, less the marks."""
    if not isinstance(texts.train, Text):
        return 0
    units = sum(len(texts.vocabulary.numbers(piece)) for piece in texts.train.pieces)
    return max(1, min(units // STRETCHES[spec.kind], spec.length - 3))


def open_for_model(text: str, options: Options, spec: LanguageSpec, *, split: str = "") -> TextDataset:
    """Texts, cut for a model of this spec. Raises SettingsError where a split is asked for: texts have none."""
    if split:
        raise SettingsError("texts are not divided into splits: leave out --split")
    if spec.kind == "translation":
        pairs = open_pairs(text, on_error=options.on_error)
        kept = without_long(pairs, spec.vocabulary.kind, spec.length) if options.on_error == "skip" else pairs
        return PairSamples(kept, spec.vocabulary, length=spec.length)
    running = open_text(text)
    if spec.kind == "causal":
        return CausalSamples(running, spec.vocabulary, length=spec.length, stride=spec.length, once=True)
    return MaskedSamples(running, spec.vocabulary, length=spec.length, stride=spec.length - 3, seed=options.seed)


def make_objective(settings: LanguageSettings, splits: Splits) -> LanguageObjective:
    """What is learned from these texts. Raises SettingsError and DataError where they do not go together."""
    spec = spec_of(settings)
    vocabulary = splits.train.vocabulary
    data = {name: {"name": dataset.name, "fingerprint": dataset.fingerprint(),
                   "skipped": [asdict(skipped) for skipped in dataset.skipped]}
            for name, dataset in (("train", splits.train), ("val", splits.val))}
    texts = "/".join(str(split["fingerprint"]) for split in data.values())
    return LanguageObjective(
        kind=kind_of(spec.kind), train=splits.train, val=splits.val, seed=settings.training.seed,
        batch=settings.training.batch, accumulate=settings.training.accumulate, smoothing=settings.loss.smoothing,
        build=lambda: create_model(settings.model.name, vocabulary=vocabulary, length=spec.length,
                                   **settings.model.arguments()),
        save=lambda model, folder: save_model(model, folder, overwrite=True),
        data={"data": data, "record": dict(splits.record), "length": spec.length,
              "vocabulary": {"units": vocabulary.kind, "size": len(vocabulary)},
              "fingerprint": f"{texts}/{vocabulary.kind}/{spec.length}/{splits.record['stride']}"})


def about(settings: LanguageSettings, splits: Splits) -> str:
    """What is trained on what, in a line."""
    words = splits.train.vocabulary
    data = settings.data
    held = data.val or f"a share of {data.val_fraction:g}, seed {settings.training.seed}"
    return (f"{settings.model.name} ({spec_of(settings).kind}) on {data.source}: {len(splits.train):,} samples of "
            f"{len(words.units):,} different {words.kind} to learn from, {len(splits.val):,} held out ({held})")
