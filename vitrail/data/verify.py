"""The pass over all files that `--on-error skip` makes when a data set is opened."""
from collections.abc import Callable, Sequence

from torch import Tensor

from vitrail.core.errors import DataError
from vitrail.data.settings import Opening
from vitrail.data.source import Files, Item, Skipped, class_order, in_threads, settle


def verify(read: Callable[[int], Tensor], keys: Sequence[str], threads: int = 0) -> dict[int, Skipped]:
    """Decode every image once, in threads (decoders let go of Python's lock): what cannot be read, by index."""
    def why(index: int) -> Skipped | None:
        try:
            read(index)
        except DataError as e:
            return Skipped(keys[index], str(e).removeprefix(f"{keys[index]}: "))
        return None

    return {i: bad for i, bad in enumerate(in_threads(why, len(keys), threads)) if bad is not None}


def files(name: str, items: Sequence[Item], opening: Opening, *,
          problems: list[Skipped], passed_over: Sequence[Skipped] = ()) -> Files:
    """A data set of the files that can be used; `problems` are errors met so far, `passed_over` never are.

    Raises DataError where a class is left without an image, unless the caller named the classes.
    """
    settle(problems, opening, name)
    classes = class_order((item.label for item in items), opening, name)
    strict = opening.on_error == "stop"
    whole = Files(name, items, classes, decoding=opening.decoding, strict=strict)
    if strict:
        return Files(name, items, classes, decoding=opening.decoding, skipped=passed_over)
    bad = verify(whole.read, whole.keys, opening.threads)
    kept = [item for i, item in enumerate(items) if i not in bad]
    left = {item.label for item in kept}
    for label in classes:
        if label not in left and opening.classes is None:
            first = next(bad[i] for i in bad if items[i].label == label)
            raise DataError(f"{name}: no image of the class {label!r} can be read; {first.key}: {first.why}")
    if not kept:
        raise DataError(f"{name}: not one of the {len(items)} images can be read")
    return Files(name, kept, classes, decoding=opening.decoding, strict=False,
                 skipped=[*passed_over, *problems, *bad.values()])
