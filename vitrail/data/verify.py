"""The pass over all files that `--on-error skip` makes when a data set is opened."""
from collections.abc import Sequence

from vitrail.core.errors import DataError
from vitrail.data.settings import Opening
from vitrail.data.source import Files, Item, Skipped, Source, class_order, in_threads, settle


def readable(source: Source, keys: Sequence[str], opening: Opening) -> tuple[list[int], list[Skipped]]:
    """Decode every image once, in threads (decoders let go of Python's lock): the indices of the good, and the bad.

    Raises DataError where none is good, or a class is left without an image though the caller did not name the
    classes.
    """
    def why(index: int) -> str:
        try:
            source.read(index)
        except DataError as e:
            return str(e).removeprefix(f"{keys[index]}: ")
        return ""

    kept: list[int] = []
    bad: list[Skipped] = []
    first: dict[int, Skipped] = {}
    for index, reason in enumerate(in_threads(why, len(source), opening.threads)):
        if reason:
            bad.append(Skipped(keys[index], reason))
            first.setdefault(source.label(index), bad[-1])
        else:
            kept.append(index)
    if not kept:
        raise DataError(f"{source.name}: not one of the {len(source)} images can be read; {bad[0].key}: {bad[0].why}")
    left = {source.label(i) for i in kept}
    for number, label in enumerate(source.classes):
        if number not in left and opening.classes is None:
            raise DataError(f"{source.name}: no image of the class {label!r} can be read; {first[number].key}: "
                            f"{first[number].why}")
    return kept, bad


def files(name: str, items: Sequence[Item], opening: Opening, *,
          problems: list[Skipped], passed_over: Sequence[Skipped] = ()) -> Files:
    """A data set of the files that can be used; `problems` are errors met so far, `passed_over` never are."""
    settle(problems, opening, name)
    classes = class_order((item.label for item in items), opening, name)
    strict = opening.on_error == "stop"
    whole = Files(name, items, classes, decoding=opening.decoding, skipped=passed_over, strict=strict)
    if strict:
        return whole
    if not opening.verify:
        return Files(name, items, classes, decoding=opening.decoding, skipped=[*passed_over, *problems], strict=False)
    kept, bad = readable(whole, whole.keys, opening)
    return Files(name, [items[i] for i in kept], classes, decoding=opening.decoding, strict=False,
                 skipped=[*passed_over, *problems, *bad])
