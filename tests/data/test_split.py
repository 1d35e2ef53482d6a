"""Held-out samples: stratified, seeded, recorded; or the division that the data set brings along."""
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from vitrail.core.errors import DataError, SettingsError
from vitrail.data.open import open_dataset
from vitrail.data.dataset import Subset
from vitrail.data.images import ImageDataset
from vitrail.data.split import split


def folder(root: Path, **counts: int) -> Path:
    for label, count in counts.items():
        (root / label.replace("__", "/")).mkdir(parents=True)
        for n in range(count):
            Image.new("RGB", (3, 3), (n, 0, 0)).save(root / label.replace("__", "/") / f"{n}.png")
    return root


def keys(source: ImageDataset) -> set[str]:
    return {source.key(i) for i in range(len(source))}


def test_a_stratified_fifth() -> None:
    digits = open_dataset("digits")
    found = split(digits, fraction=0.2, seed=0)
    assert keys(found.train) | keys(found.val) == keys(digits)
    assert not keys(found.train) & keys(found.val)
    whole = Counter(digits.targets(i)["class"] for i in range(len(digits)))
    held = Counter(found.val.targets(i)["class"] for i in range(len(found.val)))
    assert all(held[c] == round(whole[c] / 5) for c in whole)
    assert set(found.record["val"]) == keys(found.val)
    assert set(found.record["train"]) == keys(found.train)
    assert found.record["seed"] == 0


def test_the_seed_and_nothing_else_decides() -> None:
    digits = open_dataset("digits")
    first = keys(split(digits, seed=1).val)
    assert keys(split(digits, seed=1).val) == first
    assert keys(split(digits, seed=2).val) != first
    backwards = Subset(digits, range(len(digits) - 1, -1, -1))
    assert keys(split(backwards, seed=1).val) == first


def test_new_images_hardly_move_old_ones() -> None:
    digits = open_dataset("digits")
    before = keys(split(Subset(digits, range(1000)), seed=1).val)
    after = keys(split(Subset(digits, range(1010)), seed=1).val)
    assert len(before - after) <= 10


def test_small_classes(tmp_path: Path) -> None:
    found = split(open_dataset(folder(tmp_path, one=1, two=2, many=20)))
    held = Counter(found.val.classes[found.val.targets(i)["class"]] for i in range(len(found.val)))
    assert held == {"two": 1, "many": 4}


def test_nothing_to_hold_out(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="too few"):
        split(open_dataset(folder(tmp_path, a=1, b=1)))
    for bad in (0.0, 1.0, -1, float("nan")):
        with pytest.raises(SettingsError):
            split(open_dataset("digits"), fraction=bad)


def test_the_users_own_parts_are_kept(tmp_path: Path) -> None:
    source = open_dataset(folder(tmp_path, train__a=3, train__b=2, val__a=1, val__b=1, test__a=2))
    found = split(source, fraction=0.5, seed=9)
    assert {k.split("/")[0] for k in keys(found.train)} == {"train"}
    assert {k.split("/")[0] for k in keys(found.val)} == {"val"}
    assert found.record["how"] == "given"
    assert found.record["unseen"] == {"test": 2}


def test_a_train_folder_alone_is_divided(tmp_path: Path) -> None:
    found = split(open_dataset(folder(tmp_path, train__a=5, train__b=5)))
    assert (len(found.train), len(found.val)) == (8, 2)
    assert found.train.classes == ("a", "b")


def test_a_class_that_is_held_out_and_never_trained_on(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="class 'b' is held out and never trained on"):
        split(open_dataset(folder(tmp_path, train__a=3, val__a=1, val__b=1)))


def test_held_out_parts_alone(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="divided into .*training needs train"):
        split(open_dataset(folder(tmp_path, val__a=3, test__a=1)))
