"""Samples to train on and samples to validate on: by the data set's own division, or stratified and seeded.

Samples of one group (a patient, a video, an identity) never stand on both sides.
"""
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from vitrail.core.errors import DataError
from vitrail.core.seeds import derive_seed
from vitrail.data.dataset import Subset
from vitrail.data.settings import check_number


@dataclass(frozen=True)
class Splits:
    """The data to learn from and those held out, and how they were made: `record` goes into a run's run.json."""

    train: Any
    val: Any
    record: dict[str, Any]


def split(dataset: Any, *, fraction: float = 0.2, seed: int = 0) -> Splits:
    """A data set's own train and val (or, without val, test) splits; without them, a share of every stratum.

    Which samples of a class are held out depends on the seed and their keys alone, so that new files do not move
    old ones across but for the few that make up the number. A class of one sample is trained on. Raises DataError
    where a side would be empty or a class is never trained on, SettingsError where fraction is not in (0, 1).
    """
    check_number("fraction", fraction, 1e-6, 1 - 1e-6)
    if set(dataset.splits) - {"train"}:
        train, held, how = _own(dataset)
    else:
        indices = dataset.splits.get("train") or range(len(dataset))
        held = _held(dataset, indices, fraction, seed)
        left_out = set(held)
        train = [index for index in indices if index not in left_out]
        how = {"how": "stratified", "fraction": fraction, "seed": seed}
    return _checked(dataset, train, held, how)


def folds(dataset: Any, count: int, *, seed: int = 0) -> list[Splits]:
    """k-fold cross-validation: `count` ways to split, in which every sample is held out once.

    Strata are kept in proportion and groups together. Raises DataError where a fold would be empty.

    >>> sum(len(fold.val) for fold in folds(dataset, 5)) == len(dataset)     # doctest: +SKIP
    True
    """
    check_number("count", count, 2, 1 << 16, whole=True)
    fold_of: dict[int, int] = {}
    for members in _strata(dataset, range(len(dataset))):
        units = _ranked(_units(dataset, members), dataset, seed)
        sizes = [0] * count
        start = derive_seed(seed, "fold", dataset.key(members[0])) % count      # or the first fold gets every remainder
        for unit in units:
            smallest = min(range(count), key=lambda fold: (sizes[fold], (fold - start) % count))
            sizes[smallest] += len(unit)
            fold_of.update(dict.fromkeys(unit, smallest))
    made = []
    for fold in range(count):
        held = [index for index in range(len(dataset)) if fold_of[index] == fold]
        train = [index for index in range(len(dataset)) if fold_of[index] != fold]
        how = {"how": "fold", "fold": fold, "folds": count, "seed": seed}
        made.append(_checked(dataset, train, held, how))
    return made


def _checked(dataset: Any, train: Sequence[int], held: Sequence[int], how: dict[str, Any]) -> Splits:
    classes = getattr(dataset, "classes", ())
    if not held or not train:
        raise DataError(f"{dataset.name}: no sample would be {'held out' if train else 'trained on'}: {len(dataset)} "
                        f"samples of {len(classes)} classes are too few, or the fraction is too "
                        f"{'small' if train else 'large'}")
    trained = {dataset.stratum(index) for index in train}
    missing = sorted({dataset.stratum(index) for index in held} - trained)
    if missing:
        raise DataError(f"{dataset.name}: the class {missing[0]!r} is held out and never trained on")
    split_groups = {dataset.group(index) for index in train} & {dataset.group(index) for index in held} - {""}
    if split_groups:
        raise DataError(f"{dataset.name}: samples of the group {sorted(split_groups)[0]!r} are both trained on and "
                        "held out by the data's own split, which flatters every score: move them to one side")
    record = how | {"train": [dataset.key(index) for index in train], "val": [dataset.key(index) for index in held]}
    return Splits(Subset(dataset, train), Subset(dataset, held), record)


def _own(dataset: Any) -> tuple[list[int], list[int], dict[str, Any]]:
    """The splits that the user made. A test split beside a val split stays unseen."""
    splits = dataset.splits
    held = next((name for name in ("val", "test") if splits.get(name)), None)
    if not splits.get("train") or held is None:
        raise DataError(f"{dataset.name}: it is divided into {', '.join(splits)}, and training needs train and val "
                        "(or test)")
    unseen = {name: len(members) for name, members in splits.items() if name not in ("train", held)}
    return list(splits["train"]), list(splits[held]), {"how": "given", "val_split": held, "unseen": unseen}


def _strata(dataset: Any, indices: Iterable[int]) -> list[list[int]]:
    """The samples of each stratum; a group that spans several counts to the one of its first sample."""
    stratum_of: dict[str, str] = {}
    members: dict[str, list[int]] = {}
    for index in indices:
        group = dataset.group(index)
        stratum = dataset.stratum(index)
        if group:
            stratum = stratum_of.setdefault(group, stratum)
        members.setdefault(stratum, []).append(index)
    return list(members.values())


def _units(dataset: Any, indices: Iterable[int]) -> list[list[int]]:
    """What is moved as one: the samples of a group, or one sample."""
    units: dict[tuple[str, int], list[int]] = {}
    for index in indices:
        group = dataset.group(index)
        units.setdefault((group, -1) if group else ("", index), []).append(index)
    return list(units.values())


def _ranked(units: list[list[int]], dataset: Any, seed: int) -> list[list[int]]:
    """Units in an order that depends on the seed and on their names alone."""
    def rank(unit: list[int]) -> tuple[int, int]:
        return derive_seed(seed, "split", dataset.group(unit[0]) or dataset.key(unit[0])), unit[0]
    key: Callable[[list[int]], tuple[int, int]] = rank
    return sorted(units, key=key)


def _held(dataset: Any, indices: Sequence[int], fraction: float, seed: int) -> list[int]:
    held: set[int] = set()
    for members in _strata(dataset, indices):
        wanted = min(max(1, round(len(members) * fraction)), len(members) - 1)
        units = _ranked(_units(dataset, members), dataset, seed)
        taken = 0
        for unit in units[:-1] if len(units) > 1 else []:
            if taken >= wanted:
                break
            held.update(unit)
            taken += len(unit)
    return sorted(held)
