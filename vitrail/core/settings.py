"""Frozen dataclasses of settings that check themselves: kinds from their annotations, ranges from their fields.

Settings nest: a field whose annotation is a class of settings is a part. A single value, a leaf, is named by its path
(`training.lr`) or, where no other part has the same, by its own name (`lr`), in Python, TOML and on the command line.

    @dataclass(frozen=True, kw_only=True)
    class Recipe(Checked):
        depth: int = setting(12, low=1, help="number of blocks")
        training: TrainSettings = part(TrainSettings, epochs=15)

    Recipe.of({"out": "runs/a", "lr": 0.1}).training.lr             # 0.1

Imports no torch, so that the command line can refuse a wrong setting at once.
"""
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self

from vitrail.core import toml
from vitrail.core.errors import SettingsError, did_you_mean
from vitrail.core.leaves import Leaf, Part, defaults_of, hints, is_part, leaf_names, leaves
from vitrail.core.validation import check_limits, fit, limits


def setting(default: Any = MISSING, *, low: float | None = None, high: float | None = None, above: float | None = None,
            below: float | None = None, free: bool = False, flag: str = "", positional: bool = False, metavar: str = "",
            help: str = "") -> Any:
    """A field with a range: low <= value <= high, above < value < below (each number, where there are several).

    default: left out, the value must be given. free: the value does not change what is learned, so that a run may go
    on with another one. flag: what flags and flat files call it, where that is not the field's name. positional: on the
    command line the value stands without a flag. metavar: what the page of help writes for the value.
    """
    given = {"low": low, "high": high, "above": above, "below": below}
    bounds = {name: value for name, value in given.items() if value is not None}
    metadata = {"limits": limits(**bounds), "free": free, "flag": flag, "positional": positional, "metavar": metavar,
                "help": help}
    return field(default=default, metadata=metadata)


def like(kind: type["Checked"], name: str, **changes: Any) -> Any:
    """A field with the default, the range and the help of another class's field, for settings handed on to that class.

    changes: what `setting` takes, where this field differs.
    """
    leaf = leaf_names(kind)[name]
    bounds = {bound: value for bound, value in leaf.limits.items() if abs(value) < float("inf")}
    return setting(**{"default": leaf.default, "help": leaf.help, **bounds, **changes})


def part(kind: type["Checked"], **defaults: Any) -> Any:
    """A field that holds settings of their own; `defaults` replace those of the part's fields."""
    needed = [leaf for leaf in leaves(kind) if leaf.default is MISSING and leaf.path not in defaults]
    if needed:
        return field(metadata={"defaults": defaults})
    return field(default_factory=partial(_build, kind, {}, "", defaults), metadata={"defaults": defaults})


@dataclass(frozen=True, kw_only=True)
class Checked(Part):
    """The base of settings. Raises SettingsError that names the field, its value and what it may be."""

    # old name -> (name today, the version that renamed it): files of old runs hold the old names
    RENAMED: ClassVar[Mapping[str, tuple[str, str]]] = {}

    def __post_init__(self) -> None:
        for f in fields(self):
            value = fit(f.name, getattr(self, f.name), hints(type(self))[f.name])
            object.__setattr__(self, f.name, value)             # a whole number given for a float, a list for a tuple
            if f.metadata.get("limits"):
                check_limits(f.name, value, **f.metadata["limits"])

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """Settings from names and values: leaves by name or path, and parts as mappings or as settings.

        Raises SettingsError for an unknown name, with the nearest right one, and for one that is missing.
        """
        given = cls.by_path(values)
        for leaf in leaves(cls):
            if leaf.default is MISSING and leaf.path not in given:
                raise SettingsError(f"the setting {leaf.path!r} is missing")
        built: Self = _build(cls, given, "", {})
        return built

    @classmethod
    def by_path(cls, values: Mapping[str, Any], *, renamed: bool = False) -> dict[str, Any]:
        """The values of a nested or flat mapping by their leaves' paths; the values themselves are not checked yet.

        renamed: names of older versions are understood. Raises SettingsError for a name that no leaf has, and for a
        leaf that is named twice.
        """
        given: dict[str, Any] = {}
        for leaf, value in _named(cls, values, "", renamed):
            if leaf.path in given:
                raise SettingsError(f"the setting {leaf.path!r} is given twice: {given[leaf.path]!r} and {value!r}")
            given[leaf.path] = value
        return given

    @classmethod
    def read(cls, path: Path) -> Self:
        """Settings from a TOML file: a table for each part, or all names flat, those of older versions included."""
        try:
            return cls.of(cls.by_path(toml.load(path), renamed=True))
        except SettingsError as e:
            raise e if str(path) in str(e) else SettingsError(f"{path}: {e}") from None

    def at(self, path: str) -> Any:
        """The value at a path: `settings.at("training.lr")`."""
        value: Any = self
        for name in path.split("."):
            value = getattr(value, name)
        return value

    def resolved(self) -> dict[str, Any]:
        """Every leaf by name, defaults included: flat, as `of` takes them back."""
        return {leaf.name: self.at(leaf.path) for leaf in leaves(type(self))}

    def nested(self) -> dict[str, Any]:
        """Every field by name, a part as a dictionary of its own."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value.nested() if isinstance(value, Checked) else value for name, value in values.items()}

    def updated(self, **changes: Any) -> Self:
        """The same settings with some leaves changed, each by its name: `settings.updated(lr=0.1)`."""
        kept = {leaf.path: self.at(leaf.path) for leaf in leaves(type(self))}
        return type(self).of({**kept, **self.by_path(changes)})

    def to_toml(self) -> str:
        return toml.dump(self.nested())

    def changed(self, other: "Checked") -> list[str]:
        """What differs and matters: `lr: 0.1 there, 0.2 here`, other's value first."""
        mine, theirs = self.resolved(), other.resolved()
        fixed = [leaf.name for leaf in leaves(type(self)) if not leaf.free]
        return [f"{name}: {theirs.get(name)!r} there, {mine[name]!r} here" for name in fixed
                if name not in theirs or theirs[name] != mine[name]]


def _named(kind: type[Checked], values: Mapping[str, Any], table: str, renamed: bool) -> Iterator[tuple[Leaf, Any]]:
    known = leaf_names(kind)
    for key, value in values.items():
        path = f"{table}{key}"
        inner = value.nested() if isinstance(value, Checked) else value
        if isinstance(inner, Mapping) and any(leaf.path.startswith(f"{path}.") for leaf in leaves(kind)):
            yield from _named(kind, inner, f"{path}.", renamed)
            continue
        if path not in known and path in kind.RENAMED:
            name, version = kind.RENAMED[path]
            if not renamed:
                raise SettingsError(f"the setting {path!r} is called {name!r} since vitrail {version}")
            path = name
        if path not in known:
            raise SettingsError(f"there is no setting {path!r}.{did_you_mean(path, _choices(kind, path, inner))}")
        yield known[path], value


def _choices(kind: type[Checked], path: str, value: Any) -> list[str]:
    """The names that a wrong one is compared with: those of tables for a table, paths for a path."""
    if isinstance(value, Mapping):
        return sorted({leaf.path.rpartition(".")[0] for leaf in leaves(kind)} - {""})
    return [leaf.path if "." in path else leaf.name for leaf in leaves(kind)]


def _build(kind: type[Any], given: Mapping[str, Any], table: str, defaults: Mapping[str, Any]) -> Any:
    """Settings with their parts from values by path, in a table such as "training."."""
    arguments = {}
    for f in fields(kind):
        path, hint = f"{table}{f.name}", hints(kind)[f.name]
        if is_part(hint):
            arguments[f.name] = _build(hint, given, f"{path}.", defaults_of(f, defaults))
        elif path in given:
            arguments[f.name] = given[path]
        elif f.name in defaults:
            arguments[f.name] = defaults[f.name]
    try:
        return kind(**arguments)
    except SettingsError as e:      # the part names its own field; who reads the message knows the whole path
        raise SettingsError(str(e).replace("the setting '", f"the setting '{table}", 1)) from None
