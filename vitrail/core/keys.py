"""Checkpoint keys as a table of two columns, read in both directions.

`{}` stands for an index, a final `*` for the rest of the key. The first row that matches wins; a key
that no row matches, or two keys that land on one name, is an error. Tensors that another layout
stores in another shape, or in several pieces, go through a `Fold`.
"""
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vitrail.core.errors import CheckpointError

Tensor = Any    # a torch tensor; this floor imports no torch


@dataclass(frozen=True)
class Fold:
    """How the tensors of one row become ours, and how ours becomes theirs again."""

    ours: Callable[..., Tensor]                             # their tensor(s) -> our tensor
    theirs: Callable[[Tensor], Tensor | Sequence[Tensor]]   # our tensor -> their tensor(s)


# a matrix here that is a 1 x 1 convolution there
AS_CONV = Fold(lambda conv: conv[:, :, 0, 0], lambda matrix: matrix[:, :, None, None])


@dataclass(frozen=True)
class Row:
    """One row of a table: the keys there (several where they store pieces), the key here, and the fold."""

    theirs: tuple[str, ...]
    ours: str
    fold: Fold | None = None


class _Pattern:
    """`a.{}.b.*` as something that matches a key and that can be filled in."""

    def __init__(self, text: str):
        self.text = text
        self.regex = re.compile(re.escape(text).replace(r"\{\}", r"(\d+)").replace(r"\*", r"(.+)"))

    def match(self, key: str) -> tuple[str, ...] | None:
        found = self.regex.fullmatch(key)
        return found.groups() if found else None

    def fill(self, groups: Sequence[str]) -> str:
        parts = iter(groups)
        return re.sub(r"\{\}|\*", lambda _: next(parts), self.text)


class Keys:
    """A layout of a checkpoint: `rename`, `translate` to ours, `restore` to theirs.

    table: their key -> our key, in order.
    rows:  rows with a fold, tried before the table.
    drop:  keys there that carry nothing (buffers that follow from the size); ignored on the way in.
    """

    def __init__(self, table: Mapping[str, str], *, rows: Iterable[Row] = (), drop: Iterable[str] = ()):
        self.rows = [*rows, *(Row((theirs,), ours) for theirs, ours in table.items())]
        self._theirs = [tuple(_Pattern(t) for t in row.theirs) for row in self.rows]
        self._ours = [_Pattern(row.ours) for row in self.rows]
        self._drop = [_Pattern(d) for d in drop]

    def rename(self, key: str) -> str | None:
        """Our name of their key, None where it is dropped. Raises CheckpointError where no row matches."""
        found = self._find(key)
        return None if found is None else found[0]

    def _find(self, key: str) -> tuple[str, int, int, int] | None:
        """(our name, row, which piece of the row, number of pieces)"""
        if any(d.match(key) is not None for d in self._drop):
            return None
        for at, (row, patterns, ours) in enumerate(zip(self.rows, self._theirs, self._ours, strict=True)):
            for piece, pattern in enumerate(patterns):
                if (groups := pattern.match(key)) is not None:
                    return ours.fill(groups), at, piece, len(row.theirs)
        raise CheckpointError(f"no rule of this layout knows the key {key!r}: is it another layout, or another model?")

    def translate(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Their tensors under our names. Raises CheckpointError on unknown keys, collisions, missing pieces."""
        pieces: dict[str, tuple[int, list[Tensor | None], str]] = {}
        for key, value in state.items():
            if (found := self._find(key)) is None:
                continue
            name, row, piece, count = found
            at, slots, first = pieces.setdefault(name, (row, [None] * count, key))
            if at != row or slots[piece] is not None:
                raise CheckpointError(f"two keys of the checkpoint, {first!r} and {key!r}, land on {name!r}")
            slots[piece] = value
        out: dict[str, Tensor] = {}
        for name, (row, slots, first) in pieces.items():
            if any(s is None for s in slots):
                raise CheckpointError(f"{name!r} needs {len(slots)} tensors of the checkpoint, and not all of them "
                                      f"stand beside {first!r}")
            fold = self.rows[row].fold
            out[name] = fold.ours(*slots) if fold else slots[0]
        return out

    def restore(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Our tensors under their names: the inverse of `translate`, without what was dropped."""
        out: dict[str, Tensor] = {}
        for name, value in state.items():
            for row, patterns, ours in zip(self.rows, self._theirs, self._ours, strict=True):
                if (groups := ours.match(name)) is None:
                    continue
                values = row.fold.theirs(value) if row.fold else value
                parts = tuple(values) if len(patterns) > 1 else (values,)
                if len(parts) != len(patterns):
                    raise CheckpointError(f"{name!r} makes {len(parts)} tensors, and this layout wants {len(patterns)}")
                for pattern, part in zip(patterns, parts, strict=True):
                    if (key := pattern.fill(groups)) in out:
                        raise CheckpointError(f"two tensors of the model land on {key!r} of this layout")
                    out[key] = part
                break
            else:
                raise CheckpointError(f"this layout has no place for the tensor {name!r}")
        return out
