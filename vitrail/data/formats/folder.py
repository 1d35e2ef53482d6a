"""A folder whose folders are classes; with train/ and val/ (valid, test) at the top, split by them.

A class is the path, below the root, of the folder that holds the images: x/cat and y/cat are two classes.
"""
import unicodedata
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from vitrail.core.errors import DataError
from vitrail.data.settings import Opening
from vitrail.data.dataset import Skipped, natural, printable
from vitrail.data.formats.classes import image_files
from vitrail.data.images import ImageFiles, Item
from vitrail.data.walk import Tree, walk

SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val",
         "test": "test", "testing": "test"}


def open_folder(root: Path, opening: Opening | None = None, *, name: str = "") -> ImageFiles:
    """Class folders below `root`. Nothing is written there.

    Raises DataError naming the entry: no classes; an empty class folder; images outside every class folder; a
    dangling link or an unreadable folder (left out and listed under on_error="skip"); class names that clash.
    """
    opening, name = opening or Opening(), name or printable(str(root))
    tree = walk(root)
    splits = _splits(tree, name)
    items: list[Item] = []
    outside: list[Skipped] = []
    for file in sorted(tree.images, key=lambda f: natural(f.as_posix())):
        split, below = _split_of(file, splits)
        key = printable(file.as_posix())
        if len(below.parts) < 2:
            outside.append(Skipped(key, "the image lies outside every class folder"))
        else:
            items.append(Item(key, root / file, _class_of(below, opening.class_depth), split))
    if not items:
        raise DataError(_nothing(tree, outside, name))
    if not opening.class_depth:
        _no_class_in_class({item.target for item in items}, name)
    _no_clash(items, root, splits, name)
    if opening.classes is None:
        empty = _empty_classes(tree, splits, {item.target for item in items})
        if empty and opening.verify:
            raise DataError(f"{name}: {empty[0].key}: {empty[0].why}"
                            + (f" (and {len(empty) - 1} more like it)" if len(empty) > 1 else ""))
        tree.problems.extend(empty)
    order = {label: n for n, label in enumerate(sorted({item.target for item in items}, key=natural))}
    # stable: natural order of the files within a class
    items.sort(key=lambda item: (order[item.target], item.split))
    return image_files(name, items, opening, problems=tree.problems + outside, passed_over=tree.passed_over)


def _splits(tree: Tree, name: str) -> dict[str, str]:
    """Folder name -> split, where every folder of images at the top is named as one and holds class folders."""
    if any(len(f.parts) == 1 for f in tree.images):
        return {}
    top = sorted({f.parts[0] for f in tree.images})
    holding = {f.parts[0] for f in tree.images if len(f.parts) == 2}
    found = {folder: SPLITS[folder.casefold()] for folder in top if folder.casefold() in SPLITS}
    if len(found) < len(top) or holding:
        return {}
    for folder, split in found.items():
        twins = [f for f in found if found[f] == split]
        if len(twins) > 1:
            raise DataError(f"{name}: the folders {twins[0]!r} and {twins[1]!r} are both the {split} split; "
                            f"merge them, or open {folder!r} alone")
    return found


def _split_of(file: PurePosixPath, splits: dict[str, str]) -> tuple[str, PurePosixPath]:
    if splits and file.parts[0] in splits:
        return splits[file.parts[0]], PurePosixPath(*file.parts[1:])
    return "", file


def _class_of(below: PurePosixPath, depth: int) -> str:
    names = below.parts[:-1][:depth] if depth else below.parts[:-1]
    return unicodedata.normalize("NFC", printable("/".join(names)))


def _no_class_in_class(labels: Iterable[str], name: str) -> None:
    known = set(labels)
    for label in sorted(known, key=natural):
        for parent in PurePosixPath(label).parents:
            if str(parent) in known:
                raise DataError(f"{name}: the folder {str(parent)!r} holds images, and so does {label!r} inside it: "
                                "one class or two? Move the images, or set class_depth to the number of folder "
                                f"levels that name a class ({len(parent.parts)} makes it one)")


def _no_clash(items: Iterable[Item], root: Path, splits: dict[str, str], name: str) -> None:
    """Two folders may look the same yet be written in different ways (é as one character or as two)."""
    seen: dict[tuple[str, str], tuple[str, ...]] = {}
    for item in items:
        below = PurePosixPath(item.path.relative_to(root).as_posix()).parts[1 if splits else 0:-1]
        spelling = below[:len(PurePosixPath(item.target).parts)]
        if seen.setdefault((item.split, item.target), spelling) != spelling:
            raise DataError(f"{name}: two folders are both called {item.target!r}, their accents written in different "
                            "ways (Unicode NFC and NFD). Rename or merge them")


def _empty_classes(tree: Tree, splits: dict[str, str], labels: set[str]) -> list[Skipped]:
    """Folders without an image in them or below, which a class was meant to be. No setting makes them good."""
    full = {d for f in tree.images for d in f.parents}
    known = {p for label in labels for p in (PurePosixPath(label), *PurePosixPath(label).parents)}
    empty = []
    for folder in tree.folders:
        below = PurePosixPath(*folder.parts[1:]) if folder.parts[0] in splits else folder
        stray = bool(splits) and folder.parts[0] not in splits        # beside train/ and val/, not a class
        if folder not in full and not stray and PurePosixPath(_class_of(below / "x", 0)) not in known:
            empty.append(folder)
    empty.sort(key=lambda d: natural(d.as_posix()))
    return [Skipped(printable(d.as_posix()), "this class folder holds no image; fill it or remove it") for d in empty]


def _nothing(tree: Tree, outside: list[Skipped], name: str) -> str:
    if outside:
        return (f"{name}: {len(outside)} images lie directly in the folder ({outside[0].key}), and none in a folder "
                "named after its class. Make one folder a class, or give a CSV of paths and labels")
    why = "; ".join(f"{s.key}: {s.why}" for s in [*tree.problems, *tree.passed_over][:3])
    return f"{name}: there is no image in this folder or below" + (f" ({why})" if why else "")
