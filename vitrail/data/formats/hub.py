"""Hugging Face `datasets`: a set on the hub, or parquet, arrow and saved sets on this machine. Never its scripts."""
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vitrail.core.errors import DataError, MissingExtra, did_you_mean
from vitrail.data.dataset import SKIP_HINT, Skipped, printable, settle, splits_of
from vitrail.data.formats.classes import class_order, readable
from vitrail.data.formats.folder import SPLITS
from vitrail.data.images import ImageDataset
from vitrail.data.settings import Decoding, Opening

LABEL_NAMES = ("label", "labels", "class", "fine_label", "target", "category")
Row = tuple[int, int]                                       # which table, which row of it


class HubImages(ImageDataset):
    """Rows of one or more tables that hold encoded images."""

    def __init__(self, name: str, tables: Mapping[str, Any], column: str, rows: list[Row], labels: list[int],
                 classes: tuple[str, ...], *, decoding: Decoding, skipped: tuple[Skipped, ...] = (),
                 strict: bool = True) -> None:
        self.name, self.classes, self.skipped = name, classes, skipped
        self.names, self.tables, self.column = tuple(tables), tuple(tables.values()), column
        self.rows, self.labels = rows, labels
        self.splits = splits_of([SPLITS.get(self.names[t].casefold(), "") for t, _ in rows])
        self.decoding, self.hint = decoding, SKIP_HINT if strict else ""

    def __len__(self) -> int:
        return len(self.rows)

    def key(self, index: int) -> str:
        table, row = self.rows[index]
        return f"{self.names[table]}/{row:06d}"

    def targets(self, index: int) -> dict[str, Any]:
        return {"class": self.labels[index]}

    def stratum(self, index: int) -> str:
        return self.classes[self.labels[index]]

    def stored(self, index: int) -> bytes | Path:
        table, row = self.rows[index]
        try:
            found = self.tables[table][row][self.column]
        except Exception as e:                              # arrow's errors are many, and share no root
            raise DataError(f"{self.key(index)}: the row cannot be read: {' '.join(str(e).split())}") from None
        if isinstance(found, dict) and isinstance(found.get("bytes"), bytes):
            return bytes(found["bytes"])
        path = found.get("path") if isinstance(found, dict) else None
        if not path or "://" in path:
            raise DataError(f"{self.key(index)}: the row holds no image")
        return Path(path)


def open_hub(text: str, opening: Opening | None = None, *, name: str = "") -> HubImages:
    """"owner/name" or "owner/name:configuration" of the hub; a .parquet or .arrow file; a folder of those, or one
    that `save_to_disk` wrote. Its train, validation and test splits become its splits.

    Raises MissingExtra without the package, DataError where there is no such set, or no column of images or labels.
    """
    opening, name = opening or Opening(), name or f"hf:{printable(text)}"
    tables = _tables(text, name)
    column, label = _columns(next(iter(tables.values())).features, name)
    rows: list[Row] = []
    found: list[str] = []
    problems: list[Skipped] = []
    for t, (split, table) in enumerate(tables.items()):
        if table.features[column] != next(iter(tables.values())).features[column] or label not in table.features:
            raise DataError(f"{name}: the split {split!r} has other columns than the first")
        names = getattr(table.features[label], "names", None)
        for row, value in enumerate(table.select_columns([label])[:][label]):
            word = _label(value, names)
            if word:
                rows.append((t, row))
                found.append(word)
            else:
                problems.append(Skipped(f"{split}/{row:06d}", f"its label is {value!r}"))
    settle(problems, opening.on_error, name)
    classes = _classes(tables, label, found, opening, name)
    numbers = {c: i for i, c in enumerate(classes)}
    decoded = _undecoded(tables, column)
    strict = opening.on_error == "stop"
    whole = HubImages(name, decoded, column, rows, [numbers[c] for c in found], classes, decoding=opening.decoding,
                      strict=strict, skipped=tuple(problems))
    if strict or not opening.verify:
        return whole
    kept, bad = readable(whole, opening)
    return HubImages(name, decoded, column, [rows[i] for i in kept], [whole.labels[i] for i in kept], classes,
                     decoding=opening.decoding, skipped=(*problems, *bad), strict=False)


def _classes(tables: Mapping[str, Any], label: str, found: list[str], opening: Opening, name: str) -> tuple[str, ...]:
    """The set's own order of its classes where it states one, and the images use them all."""
    names = getattr(next(iter(tables.values())).features[label], "names", None)
    ordered = class_order(found, opening, name)
    if opening.classes is None and names is not None and set(names) == set(ordered):
        return tuple(names)
    return ordered


def _tables(text: str, name: str) -> dict[str, Any]:
    try:
        import datasets
    except ImportError:
        raise MissingExtra.of("datasets", "datasets") from None
    if int(datasets.__version__.split(".")[0]) < 4:         # older ones run a data set's own Python code
        raise MissingExtra(f"datasets {datasets.__version__} can run code that comes with a data set; version 4 and "
                           "later cannot: pip install 'datasets>=4'")
    bars = datasets.utils.logging.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        found = _load(datasets, text, name)
    except DataError:
        raise
    except Exception as e:                                  # network, parquet, arrow, hub: errors without a common root
        said = " ".join(str(e).split())[:400] or type(e).__name__
        raise DataError(f"{name}: this data set cannot be opened: {said}") from None
    finally:
        if bars:
            datasets.enable_progress_bars()
    tables = dict(found) if isinstance(found, dict) else {str(found.split or "all"): found}
    tables = {split: table for split, table in tables.items() if len(table)}
    if not tables:
        raise DataError(f"{name}: the data set has no rows")
    return tables


def _load(datasets: Any, text: str, name: str) -> Any:
    path = Path(os.path.expanduser(text))
    if not text or "\0" in text:
        raise DataError(f"{name}: the data set has no name")
    if path.is_file():
        if path.suffix == ".parquet":
            return datasets.Dataset.from_parquet(str(path), keep_in_memory=False)
        if path.suffix == ".arrow":
            return datasets.Dataset.from_file(str(path))
        raise DataError(f"{name}: a local set is a .parquet, an .arrow or a folder of those")
    if path.is_dir():
        if (path / "dataset_dict.json").exists() or (path / "dataset_info.json").exists():
            return datasets.load_from_disk(str(path))
        for kind in ("parquet", "arrow"):
            inside = sorted(str(p) for p in path.rglob(f"*.{kind}"))
            if inside:
                return datasets.load_dataset(kind, data_files=_by_split(inside))
        raise DataError(f"{name}: there is no .parquet or .arrow in this folder. A folder of class folders is opened "
                        "by its path alone, without 'hf:'")
    repository, _, configuration = text.partition(":")
    return datasets.load_dataset(repository, configuration or None)


def _by_split(paths: list[str]) -> dict[str, list[str]]:
    """train-00000-of-00002.parquet belongs to the split train; a file that names none belongs to all of them."""
    found: dict[str, list[str]] = {}
    for path in paths:
        stem = Path(path).stem.replace("_", "-").split("-")[0].casefold()
        found.setdefault(SPLITS.get(stem, "all"), []).append(path)
    return found


def _columns(features: Mapping[str, Any], name: str) -> tuple[str, str]:
    kinds = {column: type(feature).__name__ for column, feature in features.items()}
    images = [column for column, kind in kinds.items() if kind == "Image"]
    if len(images) > 1:
        images = [column for column in images if column in ("image", "img")]
    if len(images) != 1:
        raise DataError(f"{name}: one column of images is needed; the columns are {_shown(kinds)}")
    named = [column for column, kind in kinds.items() if kind == "ClassLabel"]
    labels = [c for c in LABEL_NAMES if c in kinds and kinds[c] in ("ClassLabel", "Value")] or named
    if not labels:
        raise DataError(f"{name}: no column of labels was found; the columns are {_shown(kinds)}."
                        f"{did_you_mean('label', kinds)}")
    return images[0], labels[0]


def _shown(kinds: Mapping[str, str]) -> str:
    return ", ".join(f"{printable(column)} ({kind})" for column, kind in kinds.items())


def _label(value: Any, names: list[str] | None) -> str:
    """A class name; empty where the row has none (-1 stands for that on the hub)."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        return ""
    if names is None:
        return printable(str(value).strip())
    if isinstance(value, int):
        return str(names[value]) if 0 <= value < len(names) else ""
    return value if value in names else ""


def _undecoded(tables: Mapping[str, Any], column: str) -> dict[str, Any]:
    import datasets

    return {split: table.select_columns([column]).cast_column(column, datasets.Image(decode=False))
            for split, table in tables.items()}
