"""Inputs and outputs of several tensors: as a flat list with names, and back.

A structure is a tensor, or a NamedTuple, a dataclass, a mapping, a tuple or a list of structures.
"""
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vitrail.core.errors import ExportError


def leaves_of(value: Any) -> list[Tensor]:
    """The tensors of a structure, in the order of its fields. Raises ExportError where it holds anything else."""
    return [leaf for _, leaf in _named(value, "")]


def names_of(value: Any, alone: str) -> list[str]:
    """A name for each tensor: its field's, with those of the structures that it stands in before it; `alone` for a
    tensor that stands in none.

    >>> names_of({"mask": torch.ones(1), "scores": torch.ones(1)}, "output")
    ['mask', 'scores']
    """
    return [path or alone for path, _ in _named(value, "")]


def rebuild(like: Any, leaves: Sequence[Tensor]) -> Any:
    """A structure of the same form, of other tensors."""
    waiting = iter(leaves)
    return _rebuilt(like, waiting)


def stack(samples: Sequence[Any]) -> list[Tensor]:
    """The tensors of several samples, which have no axis for the batch, as those of a batch."""
    return [torch.stack(leaves) for leaves in zip(*map(leaves_of, samples), strict=True)]


class Flat(nn.Module):
    """A model that is given the tensors of its inputs one by one, and answers with those of its output: a tuple, or the
    tensor itself where its output is one."""

    def __init__(self, model: Callable[..., Any]):
        super().__init__()
        self.model = model

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        output = self.model(*inputs)
        return output if isinstance(output, Tensor) else tuple(leaves_of(output))


def _fields(value: Any) -> Iterator[tuple[str, Any]] | None:
    """The parts of a structure by name; None for what is no structure."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return ((f.name, getattr(value, f.name)) for f in dataclasses.fields(value))
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return zip(value._fields, value, strict=True)
    if isinstance(value, Mapping):
        return iter((str(name), part) for name, part in value.items())
    if isinstance(value, tuple | list):
        return iter((str(number), part) for number, part in enumerate(value))
    return None


def _named(value: Any, path: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield path, value
        return
    parts = _fields(value)
    if parts is None:
        raise ExportError(f"{path or 'it'} is a {type(value).__name__}, and inputs and outputs are tensors, or "
                          "structures of tensors")
    for name, part in parts:
        if part is not None:                                # an output that this model does not have
            yield from _named(part, f"{path}_{name}" if path else name)


def _rebuilt(like: Any, leaves: Iterator[Tensor]) -> Any:
    if like is None:
        return None
    if isinstance(like, Tensor):
        return next(leaves)
    parts = _fields(like)
    assert parts is not None
    built = {name: _rebuilt(part, leaves) for name, part in parts}
    if dataclasses.is_dataclass(like) and not isinstance(like, type):
        return dataclasses.replace(like, **built)
    if isinstance(like, Mapping):
        return dict(zip(like, built.values(), strict=True))
    if hasattr(like, "_fields"):
        return type(like)(**built)
    return type(like)(built.values())
