"""A walk over a folder tree that ends, whatever is in it."""
import os
import stat
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from vitrail.core.errors import DataError
from vitrail.data.decode import SUFFIXES
from vitrail.data.dataset import Skipped, natural, printable

SPECIAL = {stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device",
           stat.S_IFBLK: "a device"}


@dataclass
class Tree:
    """Paths below the root. `problems` are what a user would want to know of; `passed_over` is never data."""

    images: list[PurePosixPath] = field(default_factory=list)
    folders: list[PurePosixPath] = field(default_factory=list)          # without the root and hidden folders
    problems: list[Skipped] = field(default_factory=list)
    passed_over: list[Skipped] = field(default_factory=list)


def walk(root: Path, suffixes: frozenset[str] = SUFFIXES) -> Tree:
    """Every image file below `root`, links followed, no folder entered twice. Raises DataError without a folder."""
    tree, unknown = Tree(), Counter[str]()
    try:
        os.scandir(root).close()
        here = root.resolve()                               # a link upwards must not lead through the whole machine
        seen = {_identity(os.stat(folder)) for folder in (here, *here.parents)}
    except OSError as e:
        raise DataError(f"{printable(str(root))}: this folder cannot be read: {e.strerror}") from None
    links: list[PurePosixPath] = []
    _descend(root, [PurePosixPath()], tree, unknown, seen, links, suffixes)
    while links:                                            # last, so that a link never hides the folder it points to
        links.sort(key=lambda p: natural(p.as_posix()), reverse=True)
        link = links.pop()
        found = _identity(os.stat(root / link))
        if found in seen:
            why = "a link to a folder that is read already, or to one above"
            tree.passed_over.append(Skipped(printable(link.as_posix()), why, error=False))
            continue
        seen.add(found)
        tree.folders.append(link)
        _descend(root, [link], tree, unknown, seen, links, suffixes)
    for suffix, count in sorted(unknown.items()):
        kind = f"the ending {suffix!r} is not one of an image" if suffix else "a name without an ending"
        tree.passed_over.append(Skipped(f"*{suffix}", kind, count, error=False))
    return tree


def _descend(root: Path, todo: list[PurePosixPath], tree: Tree, unknown: Counter[str],
             seen: set[tuple[int, int]], links: list[PurePosixPath], suffixes: frozenset[str]) -> None:
    while todo:
        folder = todo.pop()
        try:
            with os.scandir(root / folder) as entries:
                names = sorted(entry.name for entry in entries)
        except OSError as e:
            tree.problems.append(Skipped(printable(folder.as_posix()), f"this folder cannot be read: {e.strerror}"))
            continue
        for name in names:
            path = folder / name
            key = printable(path.as_posix())
            if name.startswith("."):
                tree.passed_over.append(Skipped(key, "a hidden name", error=False))
                continue
            try:
                found = os.stat(root / path)
            except OSError as e:
                dangling = os.path.islink(root / path)
                why = "a link that leads nowhere" if dangling else f"it cannot be read: {e.strerror}"
                tree.problems.append(Skipped(key, why))
                continue
            if stat.S_ISDIR(found.st_mode):
                if os.path.islink(root / path):
                    links.append(path)
                elif _identity(found) not in seen:
                    seen.add(_identity(found))
                    tree.folders.append(path)
                    todo.append(path)
            elif not stat.S_ISREG(found.st_mode):
                kind = SPECIAL.get(stat.S_IFMT(found.st_mode), "not a file")
                tree.passed_over.append(Skipped(key, kind, error=False))
            elif path.suffix.lower() in suffixes:
                tree.images.append(path)
            else:
                unknown[printable(path.suffix.lower())] += 1


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino
