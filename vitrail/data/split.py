"""Samples to train on and samples held out: by the data set's own division, or stratified and seeded."""
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vitrail.core.errors import DataError
from vitrail.core.seeds import derive_seed
from vitrail.data.settings import check_number
from vitrail.data.source import Source, Subset


@dataclass(frozen=True)
class Splits:
    """The two sides, and how they were made: `record` goes into a run's run.json."""

    train: Source
    held_out: Source
    record: dict[str, Any]


def split(source: Source, *, fraction: float = 0.2, seed: int = 0) -> Splits:
    """A data set's own train and val (or, without val, test) parts; without parts, a share of every class.

    Which samples of a class are held out depends on the seed and their keys alone, so that new files do not move
    old ones across but for the few that make up the number. A class of one sample is trained on. Raises DataError
    where a side would be empty or a class is never trained on, SettingsError where fraction is not in (0, 1).
    """
    check_number("fraction", fraction, 1e-6, 1 - 1e-6)
    if set(source.parts) - {"train"}:
        train, held, how = _own(source)
    else:
        train, held = _stratified(source, source.parts.get("train") or range(len(source)), fraction, seed)
        how = {"how": "stratified", "fraction": fraction, "seed": seed}
    if not held:
        raise DataError(f"{source.name}: no sample would be held out: {len(source)} images of {len(source.classes)} "
                        "classes are too few, or the fraction is too small")
    trained = {source.label(i) for i in train}
    missing = [source.classes[c] for c in sorted({source.label(i) for i in held} - trained)]
    if missing:
        raise DataError(f"{source.name}: the class {missing[0]!r} is held out and never trained on")
    record = how | {"train": [source.key(i) for i in train], "held_out": [source.key(i) for i in held]}
    return Splits(Subset(source, train), Subset(source, held), record)


def _own(source: Source) -> tuple[list[int], list[int], dict[str, Any]]:
    """The parts that the user made. A test part beside a val part stays unseen."""
    parts = source.parts
    held = next((p for p in ("val", "test") if parts.get(p)), None)
    if not parts.get("train") or held is None:
        raise DataError(f"{source.name}: it is divided into {', '.join(parts)}, and training needs train and val "
                        "(or test)")
    unseen = {p: len(m) for p, m in parts.items() if p not in ("train", held)}
    return list(parts["train"]), list(parts[held]), {"how": "given", "held_out_part": held, "unseen": unseen}


def _stratified(source: Source, indices: Sequence[int], fraction: float, seed: int) -> tuple[list[int], list[int]]:
    members: dict[int, list[int]] = {}
    for index in indices:
        members.setdefault(source.label(index), []).append(index)
    held: set[int] = set()
    for found in members.values():
        ranked = sorted(found, key=lambda i: (derive_seed(seed, "split", source.key(i)), i))
        count = min(max(1, round(len(found) * fraction)), len(found) - 1)
        held.update(ranked[:count])
    return [i for i in indices if i not in held], sorted(held)
