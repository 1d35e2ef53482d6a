"""From texts to a trained and judged model of text: what `vitrail train` does for a foundation."""
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from vitrail.core.errors import SettingsError
from vitrail.core.files import write_file
from vitrail.data.text.corpus import Pairs, Text, open_pairs, open_text, split_pairs, split_text
from vitrail.data.text.samples import CausalSamples, MaskedSamples, PairSamples, without_long
from vitrail.data.text.vocabulary import Vocabulary
from vitrail.language import create_language_model, load_language_model, save_language_model
from vitrail.recipes.say import lead, tell
from vitrail.recipes.text_settings import TextSettings
from vitrail.tasks.classification.intervals import wilson
from vitrail.tasks.language.causal import CausalTask
from vitrail.tasks.language.masked import MaskedTask
from vitrail.tasks.language.model import TextIdentity
from vitrail.tasks.language.task import LanguageTask
from vitrail.tasks.language.translation import TranslationTask
from vitrail.train.distributed import pick_device
from vitrail.train.loop import fit
from vitrail.train.numerics import numerics
from vitrail.train.run import Run

SHARES, COUNTED = {"exact", "next"}, {"samples", "tokens"}      # scores that are shares of samples; what is no score
STRETCHES = {"causal": 1000, "masked": 4000}                    # an epoch; a gap is asked for in few places of one


@dataclass(frozen=True)
class Sides:
    """The texts to learn from and those held out, the units that the former are made of, and how they were made."""

    train: Pairs | Text
    held_out: Pairs | Text
    vocabulary: Vocabulary
    record: Mapping[str, Any]


def open_sides(settings: TextSettings, known: TextIdentity) -> Sides:
    """The texts as the settings name them, for a model of this task and length. Raises DataError where they cannot be
    read, and SettingsError where both sides are one text."""
    if settings.held_out == settings.data:
        raise SettingsError(f"held_out is {settings.held_out!r}, the very text that is learned from: leave it out, and "
                            f"a share of {settings.fraction:g} is held out")
    pairs = known.task == "translation"
    kind = settings.units
    if kind == "auto":
        kind = "words" if pairs or settings.data == "toy" else "characters"

    def opened(name: str) -> Any:
        if not pairs:
            return open_text(name, sentences=settings.sentences, seed=settings.seed)
        found = open_pairs(name, sentences=settings.sentences, seed=settings.seed, on_error=settings.on_error)
        return without_long(found, kind, known.length) if settings.on_error == "skip" else found
    whole = opened(settings.data)
    record: dict[str, Any] = {"how": "named", "held_out": settings.held_out}
    if settings.held_out:
        train, held_out = whole, opened(settings.held_out)
    else:
        cut = split_pairs if pairs else split_text
        train, held_out = cut(whole, fraction=settings.fraction, seed=settings.seed)
        record = {"how": "a share", "fraction": settings.fraction, "seed": settings.seed}
    texts: Sequence[str] = (*train.sources, *train.targets) if pairs else train.pieces
    return Sides(train, held_out, Vocabulary.of(texts, kind, most=settings.most), record)


def make_task(settings: TextSettings, known: TextIdentity, sides: Sides) -> LanguageTask[Any, Any]:
    """What is learned from these texts. Raises SettingsError and DataError where they do not go together."""
    data = {side: {"name": text.name, "fingerprint": text.fingerprint(),
                   "skipped": [asdict(s) for s in getattr(text, "skipped", ())]}
            for side, text in (("train", sides.train), ("held_out", sides.held_out))}
    words, length = sides.vocabulary, known.length
    stride = settings.stride or _stride(sides, known)
    texts = "/".join(str(side["fingerprint"]) for side in data.values())
    common: dict[str, Any] = {
        "build": lambda: create_language_model(settings.model, vocabulary=words, length=length, **settings.changes()),
        "save": lambda model, folder: save_language_model(model, folder, overwrite=True),
        "data": {"data": data, "record": dict(sides.record),
                 "vocabulary": {"units": words.kind, "size": len(words)}, "length": length,
                 "fingerprint": f"{texts}/{words.kind}/{length}/{stride}"},
        "seed": settings.seed, "batch": settings.batch, "accumulate": settings.accumulate,
        "smoothing": settings.smoothing}
    train, held_out = sides.train, sides.held_out
    if isinstance(train, Pairs) and isinstance(held_out, Pairs):
        return TranslationTask(train=PairSamples(train, words, length=length, fixed=settings.compile),
                               held_out=PairSamples(held_out, words, length=length), **common)
    assert isinstance(train, Text) and isinstance(held_out, Text), "both sides are opened alike"
    if known.task == "causal":
        return CausalTask(train=CausalSamples(train, words, length=length, stride=stride),
                          held_out=CausalSamples(held_out, words, length=length, stride=length, once=True), **common)
    return MaskedTask(
        train=MaskedSamples(train, words, length=length, stride=stride, seed=settings.seed),
        held_out=MaskedSamples(held_out, words, length=length, stride=length - 3, seed=settings.seed), **common)


def _stride(sides: Sides, known: TextIdentity) -> int:
    """As far apart as gives some `STRETCHES` of a text, and no farther than they are long, less the marks."""
    if not isinstance(sides.train, Text):
        return 0
    units = sum(len(sides.vocabulary.numbers(piece)) for piece in sides.train.pieces)
    return max(1, min(units // STRETCHES[known.task], known.length - 3))


def check_model(settings: TextSettings) -> TextIdentity:
    """What the model will be. Raises ModelError or SettingsError where it cannot be so; no numbers are computed."""
    if settings.strategy == "fsdp":
        raise SettingsError("strategy = 'fsdp' is not for models of text, which write word by word: give ddp or single")
    with torch.device("meta"):
        found = create_language_model(settings.model, vocabulary=Vocabulary("words", ("a", "word")),
                                      length=settings.length, **settings.changes())
    if found.config.spec.length < 8:
        raise SettingsError(f"the setting 'length' is {found.config.spec.length}, and texts of fewer than 8 tokens teach "
                            "nothing")
    return found.config


def run(settings: TextSettings) -> Path:
    """Trains, evaluates the finished model on what was held out, and writes RUN/evaluation.json.

    Returns the run's folder. Under torchrun every process calls it; the first one writes. Raises VitrailError.
    """
    known = check_model(settings)
    Run.look(settings)
    sides = open_sides(settings, known)
    task = make_task(settings, known, sides)
    with Run.open(settings) as opened:
        if opened.finished:
            opened.check(task.describe())
        tell(f"{opened.folder} is finished: nothing is trained" if opened.finished else _about(settings, task, sides))
        fit(task, settings, opened)
    folder = Path(settings.out)
    if lead():
        tell(f"evaluating on {len(task.held_out):,} held-out samples")
        with numerics(settings):
            judge(folder, task, device=pick_device(settings.device))
    return folder


def judge(run: Path, task: LanguageTask[Any, Any], *, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Evaluates a run's finished model on what the task holds out, and writes RUN/evaluation.json: scores, what
    simple ways reach, and a few answers."""
    model = load_language_model(run).to(device)
    torch.manual_seed(task.seed)
    found = task.evaluate(model, torch.device(device), 0, 1)
    scores: dict[str, Any] = {name: {"value": value} for name, value in found.items() if name not in COUNTED}
    for name in SHARES & scores.keys():
        scores[name] = asdict(wilson(round(found[name] * found["samples"]), int(found["samples"])))
    page = {"model": model.config.model, "task": task.name, "held_out": task.describe()["data"]["held_out"]["name"],
            "samples": int(found["samples"]), "tokens": int(found["tokens"]), "scores": scores,
            "baselines": task.baselines(), "examples": task.examples(model)}
    write_file(run / "evaluation.json", json.dumps(page, indent=1, ensure_ascii=False).encode(), overwrite=True)
    return page


def _about(settings: TextSettings, task: LanguageTask[Any, Any], sides: Sides) -> str:
    """What is trained on what, in a line."""
    words = sides.vocabulary
    held = settings.held_out or f"a share of {settings.fraction:g}, seed {settings.seed}"
    return (f"{settings.model} ({task.name}) on {settings.data}: {len(task.train):,} samples of {len(words.units):,} "
            f"different {words.kind} to learn from, {len(task.held_out):,} held out ({held})")
