"""Which systems there are, without importing any: a table of the modules' variants, recomputed by a test.

`catalogue.json` beside this file is written by `make catalogue` from the modules themselves.
"""
import fnmatch
import functools
import importlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from vitrail.core.card import Paper, Variant
from vitrail.core.errors import ModelError, did_you_mean
from vitrail.core.mechanism import Mechanism, Position

FILE = Path(__file__).with_name("catalogue.json")
KINDS = ("backbone", "foundation", "attention", "position")
_CALLED = {"backbone": "model", "foundation": "model of text", "attention": "mechanism", "position": "position code"}
_AN = {"backbone": "a model of images", "foundation": "a model of text", "attention": "a mechanism of attention, "
       "which a model takes as its mixer", "position": "a position code"}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A line of the catalogue: a backbone, a foundation, a mechanism of attention or a position code.

    Of a backbone `params` counts the head of 1,000 classes, and `gflops` is at `image` pixels a side; of a foundation
    it is for `length` tokens. What does not apply to a kind is left at its default.
    """

    name: str
    module: str                     # "backbones.swin"
    kind: str                       # one of KINDS
    tasks: tuple[str, ...]
    paper: str
    arxiv: str
    year: int
    builds_on: tuple[str, ...]
    params: int = 0
    gflops: float = 0.0
    image: int = 0
    length: int = 0
    weights: tuple[str, ...] = ()
    time: str = ""                  # of a mechanism: how its costs grow with the tokens, as its paper says
    memory: str = ""
    takes: str = ""                 # and the layout it takes
    mixes: bool = False             # and whether it can be the token mixer of a plain backbone
    enters: str = ""                # of a position code: what it acts on
    learned: bool = False


@dataclass(frozen=True)
class _Registered:
    """A model of the user's own."""

    entry: Entry
    variant: Variant[Any]


_REGISTERED: dict[str, _Registered] = {}
_OWN = Paper(title="a model of your own", arxiv="", authors="you", year=0)


def register_model(name: str, variant: Variant[Any], *, tasks: tuple[str, ...], kind: str = "backbone") -> None:
    """Makes a model of your own known by name to `create_model` and to every command, for the rest of the process.

    variant: a checked constructor (`core.card.variant`). tasks: what it can be built for, the usual one first. Raises
    ModelError where the catalogue has a model of this name already; your own may be registered again.

    >>> register_model("my_net", variant(MyNet, Figures(params=0, gflops=0.0)), tasks=("mine",))    # doctest: +SKIP
    """
    if name in _published():
        raise ModelError(f"there is a model {name!r} already: give yours another name")
    if not name.isidentifier() or not tasks:
        raise ModelError(f"a model is registered under a plain name, for one task at least: {name!r}, {tasks}")
    entry = Entry(name=name, module=variant.build.__module__, kind=kind, tasks=tuple(tasks), paper=_OWN.title, arxiv="",
                  year=0, builds_on=(), params=variant.figures.params, gflops=variant.figures.gflops,
                  image=getattr(variant.figures, "image", 0), length=getattr(variant.figures, "length", 0))
    _REGISTERED[name] = _Registered(entry, variant)


def entries() -> Mapping[str, Entry]:
    """Every system by name, those of the user's own last."""
    return {**_published(), **{name: own.entry for name, own in _REGISTERED.items()}}


@functools.cache
def _published() -> Mapping[str, Entry]:
    """Every system of the catalogue by name."""
    table: dict[str, dict[str, Any]] = json.loads(FILE.read_text(encoding="utf-8"))
    frozen: dict[str, dict[str, Any]] = {
        name: {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()} for name, fields in table.items()}
    return {name: Entry(name=name, **fields) for name, fields in frozen.items()}


def find(name: str, *kinds: str) -> Entry:
    """The line of one system, of one of `kinds` where any is named. Raises ModelError, naming the nearest names of
    those kinds, where there is none."""
    entry = entries().get(name)
    if entry is None or (kinds and entry.kind not in kinds):
        what = _CALLED[kinds[0]] if kinds else "model"
        known = [e.name for e in entries().values() if not kinds or e.kind in kinds]
        other = f" ({name} is {_AN[entry.kind]}.)" if entry else ""
        option = f" --kind {kinds[0]}" if kinds and kinds[0] != "backbone" else ""
        raise ModelError(f"there is no {what} {name!r}.{other}{did_you_mean(name, known)} `vitrail list{option}` "
                         "shows all of them.")
    return entry


def names(kind: str) -> tuple[str, ...]:
    """The names of one kind."""
    return tuple(e.name for e in entries().values() if e.kind == kind)


def search(pattern: str = "*", *, kind: str = "", task: str = "") -> list[Entry]:
    """The lines whose name matches a shell pattern, in the catalogue's order."""
    return [e for e in entries().values() if fnmatch.fnmatchcase(e.name, pattern)
            and (not kind or e.kind == kind) and (not task or task in e.tasks)]


def module_of(name: str) -> ModuleType:
    """The module of a system, imported now."""
    return importlib.import_module(f"vitrail.{find(name).module}")


def entry_of(name: str) -> Variant[Any] | Mechanism | Position:
    """What the module of a system, a mechanism or a position code declares under this name."""
    if name in _REGISTERED:
        return _REGISTERED[name].variant
    found = getattr(module_of(name), name)
    assert isinstance(found, (Variant, Mechanism, Position))
    return found


def variant_of(name: str) -> Variant[Any]:
    """The checked constructor of a system. Raises ModelError for what is none."""
    find(name, "backbone", "foundation")
    found = entry_of(name)
    assert isinstance(found, Variant)
    return found


def mechanism_of(name: str) -> Mechanism:
    """A mechanism of attention. Raises ModelError for what is none."""
    find(name, "attention")
    found = entry_of(name)
    assert isinstance(found, Mechanism)
    return found


def paper_of(name: str) -> Paper:
    """The paper of a system; of a model of the user's own, that there is none."""
    if name in _REGISTERED:
        return _OWN
    found = module_of(name).PAPER
    assert isinstance(found, Paper)
    return found
