"""Frozen dataclasses of settings that check themselves: kinds from their annotations, ranges from their fields.

Imports no torch, so that the command line can refuse a wrong setting at once.
"""
import math
import types
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, Self, Union, get_args, get_origin, get_type_hints

from vitrail.core.errors import SettingsError, did_you_mean
from vitrail.core import toml


def setting(default: Any, *, low: float = -math.inf, high: float = math.inf, above: float | None = None,
            below: float | None = None, free: bool = False, help: str = "") -> Any:
    """A field with a range: low <= value <= high, above < value < below (each number, where there are several).

    free: the value does not change what is learned, so that a run may go on with another one.
    """
    limits = {"low": low, "high": high, "above": -math.inf if above is None else above,
              "below": math.inf if below is None else below}
    return field(default=default, metadata={"limits": limits, "free": free, "help": help})


@dataclass(frozen=True, kw_only=True)
class Checked:
    """The base of settings. Raises SettingsError that names the field, its value and what it may be."""

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for f in fields(self):
            value = _fit(f.name, getattr(self, f.name), hints[f.name])
            object.__setattr__(self, f.name, value)             # a whole number given for a float, a list for a tuple
            if limits := f.metadata.get("limits"):
                for number in value if isinstance(value, tuple) else (value,):
                    _check(f.name, number, **limits)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """Settings from names and values. Raises SettingsError for an unknown name, with the nearest right one."""
        known = {f.name: f for f in fields(cls) if f.init}
        for name in values:
            if name not in known:
                raise SettingsError(f"there is no setting {name!r}.{did_you_mean(str(name), known)}")
        for name, f in known.items():
            if name not in values and f.default is MISSING and f.default_factory is MISSING:
                raise SettingsError(f"the setting {name!r} is missing")
        return cls(**values)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Settings from a TOML file."""
        try:
            return cls.of(toml.load(path))
        except SettingsError as e:
            raise e if str(path) in str(e) else SettingsError(f"{path}: {e}") from None

    def resolved(self) -> dict[str, Any]:
        """Every setting by name, defaults included."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def to_toml(self) -> str:
        return toml.dump(self.resolved())

    def changed(self, other: "Checked") -> list[str]:
        """What differs and matters: `lr: 0.1 there, 0.2 here`, other's value first."""
        mine, theirs = self.resolved(), other.resolved()
        fixed = [f.name for f in fields(self) if not f.metadata.get("free")]
        return [f"{name}: {theirs.get(name)!r} there, {mine[name]!r} here" for name in fixed
                if name not in theirs or theirs[name] != mine[name]]


def _fit(name: str, value: Any, kind: Any) -> Any:
    """The value as its annotation wants it. Raises SettingsError where it is of another kind."""
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in get_args(kind):
            return None
        for option in get_args(kind):
            try:
                return _fit(name, value, option)
            except SettingsError:
                continue
    elif origin is Literal:
        choices = get_args(kind)
        if any(value == c and type(value) is type(c) for c in choices):
            return value
        raise SettingsError(f"the setting {name!r} is {value!r}, and must be one of {', '.join(map(repr, choices))}."
                            f"{did_you_mean(str(value), [str(c) for c in choices])}")
    elif origin is tuple and isinstance(value, (list, tuple)):
        parts = get_args(kind)
        parts = parts[:1] * len(value) if parts[-1] is Ellipsis else parts
        if len(parts) == len(value):
            return tuple(_fit(name, v, p) for v, p in zip(value, parts, strict=True))
    elif kind is float and type(value) in (int, float):
        return math.inf if type(value) is int and abs(value) > 1e300 else float(value)
    elif isinstance(kind, type) and origin is None and type(value) is kind:
        return value
    raise SettingsError(f"the setting {name!r} is {value!r}, and must be {_words(kind)}")


def _words(kind: Any) -> str:
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", type(None): "left out"}
    if get_origin(kind) is tuple:
        parts = get_args(kind)
        many = "any number of" if parts[-1] is Ellipsis else str(len(parts))
        return f"a list of {many} values, each {_words(parts[0])}"
    if get_origin(kind) in (Union, types.UnionType):
        return " or ".join(_words(k) for k in get_args(kind))
    return names.get(kind, getattr(kind, "__name__", str(kind)))


def _check(name: str, value: Any, low: float, high: float, above: float, below: float) -> None:
    if isinstance(value, str) or value is None or (low <= value <= high and above < value < below):
        return
    bounds = [f"at least {low:g}" * (low > -math.inf), f"more than {above:g}" * (above > -math.inf),
              f"at most {high:g}" * (high < math.inf), f"less than {below:g}" * (below < math.inf)]
    allowed = " and ".join(b for b in bounds if b) or "a finite number"
    raise SettingsError(f"the setting {name!r} is {value!r}, and must be {allowed}")
