"""A CSV (or TSV) of image paths and labels, with the columns `split` and `group` where the user has them."""
import csv
import io
import os
import stat
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from vitrail.core.errors import DataError
from vitrail.data.decode import SUFFIXES
from vitrail.data.dataset import Skipped, natural, printable
from vitrail.data.formats.classes import image_files
from vitrail.data.formats.folder import SPLITS
from vitrail.data.images import ImageFiles, Item
from vitrail.data.settings import Opening

SUFFIX = (".csv", ".tsv")
PATH_NAMES = ("path", "file", "filename", "file_name", "filepath", "image", "image_path")
LABEL_NAMES = ("label", "class", "category", "target", "class_name")
SPLIT_NAMES = ("split", "part", "subset")
GROUP_NAMES = ("group", "patient", "patient_id", "subject", "video", "identity", "series")
MAX_BYTES = 1 << 30
Row = tuple[int, list[str]]                                 # the line that a row ends on, and its cells
Columns = tuple[int, int, int | None, int | None]           # of path, label, split and group


def open_table(path: Path, opening: Opening | None = None, *, name: str = "") -> ImageFiles:
    """The images a table names; relative paths start at the table's own folder.

    The columns are found by name (path, label, split, group), or else are the first two. A group is what a split keeps
    together: images of one patient, one video. Raises DataError naming the
    row: a missing file, an empty label, a path given twice, an unknown split, too few or too many cells (left out
    and listed under on_error="skip"). A table that is not text, or has no such columns, is always an error.
    """
    opening, name = opening or Opening(), name or printable(str(path))
    rows = list(_rows(_text(path, name), path, name))
    if not rows:
        raise DataError(f"{name}: the table is empty")
    columns, start = _columns(rows[0], path.parent, name)
    items: list[Item] = []
    problems: list[Skipped] = []
    seen: dict[str, tuple[int, str]] = {}
    for line, cells in rows[start:]:
        where = f"row {line}"
        try:
            item = _item(cells, columns, path.parent, len(rows[0][1]))
            real = os.path.normpath(item.path)
            if real in seen:
                before, label = seen[real]
                how = "with the same label" if label == item.target else f"there as {label!r}, here as {item.target!r}"
                raise DataError(f"{item.key!r} is already in row {before}, {how}")
            seen[real] = line, item.target
            items.append(item)
        except DataError as e:
            problems.append(Skipped(where, str(e)))
    if not items and not problems:
        raise DataError(f"{name}: the table has a heading and no rows")
    order = {label: n for n, label in enumerate(sorted({item.target for item in items}, key=natural))}
    items.sort(key=lambda item: (order[item.target], natural(item.key)))
    return image_files(name, items, opening, problems=problems)


def _text(path: Path, name: str) -> str:
    """The table as text: UTF-8, or UTF-16 where its first bytes say so. DataError naming the row that is neither."""
    try:
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):
            raise DataError(f"{name}: this is not a regular file")
        if found.st_size > MAX_BYTES:
            raise DataError(f"{name}: a table of {found.st_size / 1e6:.0f} MB is larger than is read")
        raw = path.read_bytes()
    except OSError as e:
        raise DataError(f"{name}: this table cannot be read: {e.strerror}") from None
    wide = raw[:2] in (b"\xff\xfe", b"\xfe\xff")
    try:
        text = raw.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as e:
        line = raw[:e.start].count(b"\n") + 1
        raise DataError(f"{name}: row {line}: the text is not {'UTF-16' if wide else 'UTF-8'}; save the table as "
                        "UTF-8") from None
    if "\0" in text:
        raise DataError(f"{name}: row {text[:text.index(chr(0))].count(chr(10)) + 1}: a zero byte stands in the text; "
                        "this is not a table")
    return text


def _rows(text: str, path: Path, name: str) -> Iterator[Row]:
    head = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=lambda d: (head.count(d), d == ","))
    if path.suffix.lower() == ".tsv":
        delimiter = "\t"
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield reader.line_num, cells
    except csv.Error as e:
        raise DataError(f"{name}: row {reader.line_num}: {e}") from None


def _columns(first: Row, folder: Path, name: str) -> tuple[Columns, int]:
    """Which columns hold path, label, split and group, and the index of the first row of data."""
    cells = [c.strip().casefold() for c in first[1]]
    if len(cells) < 2:
        raise DataError(f"{name}: a table needs a column of paths and one of labels, and this has one column")

    def find(names: tuple[str, ...]) -> int | None:
        found = [i for i, c in enumerate(cells) if c in names]
        exact = [i for i in found if cells[i] == names[0]]
        if len(exact or found) > 1:
            raise DataError(f"{name}: row {first[0]}: more than one column could be the {names[0]}: "
                            f"{', '.join(repr(cells[i]) for i in found)}; rename all but one")
        return next(iter(exact or found), None)

    path, label = find(PATH_NAMES), find(LABEL_NAMES)
    if path is not None and label is not None:
        return (path, label, find(SPLIT_NAMES), find(GROUP_NAMES)), 1
    if Path(first[1][0].strip()).suffix.lower() in SUFFIXES:        # no heading: the first row is data
        return (0, 1, None, None), 0
    split, group = (column if column is not None and column > 1 else None
                    for column in (find(SPLIT_NAMES), find(GROUP_NAMES)))
    return (0, 1, split, group), 1


def _item(cells: list[str], columns: Columns, folder: Path, width: int) -> Item:
    if len(cells) != width:
        raise DataError(f"{len(cells)} cells, where the first row has {width}")
    path, label, split, group = columns
    key = cells[path].strip()
    text = unicodedata.normalize("NFC", cells[label].strip())
    if not key:
        raise DataError("the path is empty")
    if not text:
        raise DataError(f"the label of {printable(key)!r} is empty")
    if any(unicodedata.category(c) == "Cc" for c in text + key):
        raise DataError("a control character (a line break, for instance) stands in the path or the label")
    named = ""
    if split is not None:
        named = SPLITS.get(cells[split].strip().casefold(), "")
        if not named:
            raise DataError(f"the split is {cells[split].strip()!r}, and must be train, val or test")
    try:
        file = folder / os.path.expanduser(key)
        found = os.stat(file)
    except (OSError, ValueError) as e:
        why = e.strerror if isinstance(e, OSError) and not isinstance(e, FileNotFoundError) else "there is no such file"
        raise DataError(f"{printable(key)}: {why}") from None
    if not stat.S_ISREG(found.st_mode):
        raise DataError(f"{printable(key)}: this is not a regular file")
    return Item(printable(key), file, text, named, "" if group is None else printable(cells[group].strip()))
