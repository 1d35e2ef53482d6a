"""Images without labels: all those of a folder; and pairs of images, an input and what is to become of it."""
from pathlib import Path, PurePosixPath
from typing import Any

from vitrail.core.errors import DataError
from vitrail.data.dataset import Skipped, natural, printable, settle
from vitrail.data.decode import decode
from vitrail.data.formats.classes import image_files
from vitrail.data.formats.folder import SPLITS
from vitrail.data.images import ImageFiles, Item, content_digest
from vitrail.data.settings import Opening
from vitrail.data.walk import walk

PAIRS = (("input", "target"), ("inputs", "targets"), ("a", "b"), ("low", "high"), ("noisy", "clean"))


def open_images(root: Path, opening: Opening | None = None, *, name: str = "") -> ImageFiles:
    """Every image below a folder, of no class; train/ and val/ at the top are its splits.

    Raises DataError where there is none, or the folder cannot be read.

    >>> open_images(Path("photos")).targets(0)                              # doctest: +SKIP
    {}
    """
    opening = opening or Opening()
    name = name or printable(str(root))
    tree = walk(root)
    files = sorted(tree.images, key=lambda file: natural(file.as_posix()))
    if not files:
        raise DataError(f"{name}: there is no image in this folder or below")
    divided = all(len(file.parts) > 1 and file.parts[0].casefold() in SPLITS for file in files)
    items = [Item(printable(file.as_posix()), root / file,
                  split=SPLITS[file.parts[0].casefold()] if divided else "") for file in files]
    return image_files(name, items, opening, problems=tree.problems, passed_over=tree.passed_over, labelled=False)


class ImagePairs(ImageFiles):
    """Images with the images that they are to become: inputs {"image"}, targets {"image"}, both uint8 (3, H, W)."""

    def __init__(self, name: str, items: list[Item], others: list[Path], **options: Any) -> None:
        super().__init__(name, items, **options)
        self.others = [str(path) for path in others]

    def targets(self, index: int) -> dict[str, Any]:
        try:
            return {"image": decode(Path(self.others[index]), name=self.others[index], how=self.decoding)}
        except DataError as e:
            raise DataError(f"{e}{self.hint}") from None

    def digest(self, index: int) -> str:
        return super().digest(index) + content_digest(Path(self.others[index]), self.others[index])


def open_pairs(root: Path, opening: Opening | None = None, *, name: str = "") -> ImagePairs:
    """A folder of two folders, such as input/ and target/, whose images belong together by their names.

    Raises DataError where there are no two such folders, or an image has no partner (left out and listed under
    on_error="skip").
    """
    opening = opening or Opening()
    name = name or printable(str(root))
    folders = {entry.name.casefold(): entry for entry in sorted(root.iterdir()) if entry.is_dir()} if root.is_dir() \
        else {}
    chosen = next(((folders[one], folders[two]) for one, two in PAIRS if one in folders and two in folders), None)
    if chosen is None:
        known = ", ".join(f"{one}/ and {two}/" for one, two in PAIRS)
        raise DataError(f"{name}: pairs lie in two folders, and these are looked for: {known}")
    first, second = ({str(PurePosixPath(file).with_suffix("")): folder / file for file in walk(folder).images}
                     for folder in chosen)
    problems = [Skipped(printable(stem), "it has no partner of the same name in the other folder")
                for stem in sorted(first.keys() ^ second.keys(), key=natural)]
    stems = sorted(first.keys() & second.keys(), key=natural)
    settle(problems, opening.on_error, name)
    if not stems:
        raise DataError(f"{name}: no image of {chosen[0].name}/ has a partner of the same name in {chosen[1].name}/")
    return ImagePairs(name, [Item(printable(stem), first[stem]) for stem in stems], [second[stem] for stem in stems],
                      decoding=opening.decoding, skipped=problems, strict=opening.on_error == "stop")
