"""The classes of a data set, and the images of it that can be used."""
import unicodedata
from collections.abc import Iterable, Sequence

from vitrail.core.errors import DataError, did_you_mean
from vitrail.data.dataset import Skipped, in_threads, natural, settle
from vitrail.data.images import ImageDataset, ImageFiles, Item
from vitrail.data.settings import Opening


def class_order(names: Iterable[str], opening: Opening, where: str) -> tuple[str, ...]:
    """The classes of a data set in the order of their numbers: natural order, or the order the caller asks for.

    Raises DataError where two names differ only in case or composition, or are not among those asked for.
    """
    ordered = sorted(set(names), key=natural)
    if not ordered:
        raise DataError(f"{where}: there are no labelled images here")
    seen: dict[str, str] = {}
    for name in ordered:
        twin = seen.setdefault(unicodedata.normalize("NFC", name.casefold()), name)
        if twin != name:
            raise DataError(f"{where}: the classes {twin!r} and {name!r} differ only in upper and lower case; "
                            "on some machines they are one folder. Rename or merge them")
    if opening.classes is None:
        return tuple(ordered)
    for name in ordered:
        if name not in opening.classes:
            shown = ", ".join(map(repr, opening.classes[:5])) + (", ..." if len(opening.classes) > 5 else "")
            raise DataError(f"{where}: the class {name!r} is not one of the {len(opening.classes)} classes of the "
                            f"model ({shown}).{did_you_mean(name, opening.classes)}")
    return opening.classes


def readable(dataset: ImageDataset, opening: Opening) -> tuple[list[int], list[Skipped]]:
    """Decode every image once, in threads (decoders let go of Python's lock): the indices of the good, and the bad.

    The pass that `--on-error skip` makes when a data set is opened. Raises DataError where none is good, or a class is
    left without an image though the caller did not name the classes.
    """
    def why(index: int) -> str:
        try:
            dataset.image(index)
        except DataError as e:
            return str(e).removeprefix(f"{dataset.key(index)}: ")
        return ""

    kept: list[int] = []
    bad: list[Skipped] = []
    first: dict[str, Skipped] = {}
    for index, reason in enumerate(in_threads(why, len(dataset), opening.threads)):
        if reason:
            bad.append(Skipped(dataset.key(index), reason))
            first.setdefault(dataset.stratum(index), bad[-1])
        else:
            kept.append(index)
    name = getattr(dataset, "name", "the data set")
    if not kept:
        raise DataError(f"{name}: not one of the {len(dataset)} images can be read; {bad[0].key}: {bad[0].why}")
    left = {dataset.stratum(index) for index in kept}
    for label in dataset.classes:
        if label not in left and opening.classes is None:
            raise DataError(f"{name}: no image of the class {label!r} can be read; {first[label].key}: "
                            f"{first[label].why}")
    return kept, bad


def image_files(name: str, items: Sequence[Item], opening: Opening, *, problems: list[Skipped],
                passed_over: Sequence[Skipped] = (), labelled: bool = True) -> ImageFiles:
    """A data set of the files that can be used; `problems` are errors met so far, `passed_over` never are."""
    settle(problems, opening.on_error, name)
    classes = class_order((item.target for item in items), opening, name) if labelled else ()
    strict = opening.on_error == "stop"
    whole = ImageFiles(name, items, classes, decoding=opening.decoding, skipped=passed_over, strict=strict)
    if strict:
        return whole
    skipped = [*passed_over, *problems]
    if opening.verify:
        kept, bad = readable(whole, opening)
        items = [items[index] for index in kept]
        skipped += bad
    return ImageFiles(name, items, classes, decoding=opening.decoding, skipped=skipped, strict=False)
