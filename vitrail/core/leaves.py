"""What a class of settings holds: its leaves, the single values of all its parts, with their paths and names."""
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, fields, replace
from functools import cache
from typing import Any, TypeVar, cast, get_type_hints

F = TypeVar("F", bound=Callable[..., Any])


def _cached(function: F) -> F:
    """functools.cache with the function's own types: mypy takes a class for unhashable."""
    return cast(F, cache(function))


class Part:
    """The root of all classes of settings, by which a field's annotation is known to be a part."""


@dataclass(frozen=True)
class Leaf:
    """One value. path: "augmentation.scale". name: what flags and flat files call it, "crop_scale"; the path, where two
    leaves would share a name. default: MISSING where it must be given."""

    path: str
    name: str
    kind: Any
    default: Any
    metadata: Mapping[str, Any]

    @property
    def limits(self) -> Mapping[str, float]:
        return self.metadata.get("limits", {})

    @property
    def help(self) -> str:
        return str(self.metadata.get("help", ""))

    @property
    def free(self) -> bool:
        return bool(self.metadata.get("free"))

    @property
    def positional(self) -> bool:
        return bool(self.metadata.get("positional"))


@_cached
def hints(kind: type[Any]) -> Mapping[str, Any]:
    """The annotations of a class of settings, resolved."""
    return get_type_hints(kind)


def is_part(hint: Any) -> bool:
    """Whether an annotation is a class of settings."""
    return isinstance(hint, type) and issubclass(hint, Part)


@_cached
def leaves(kind: type[Any]) -> tuple[Leaf, ...]:
    """The leaves of a class of settings, in the order of its fields."""
    collected = _collect(kind, "", {})
    times = Counter(leaf.name for leaf in collected)
    return tuple(replace(leaf, name=leaf.path) if times[leaf.name] > 1 else leaf for leaf in collected)


@_cached
def leaf_names(kind: type[Any]) -> Mapping[str, Leaf]:
    """Every name that a leaf answers to: its path, its name, its name in its part, and its field's where that is of
    one leaf only."""
    table = {leaf.path: leaf for leaf in leaves(kind)}
    table.update({leaf.name: leaf for leaf in leaves(kind)})
    times = Counter(leaf.path.rpartition(".")[2] for leaf in leaves(kind))
    for leaf in leaves(kind):
        prefix, dot, last = leaf.path.rpartition(".")
        table.setdefault(f"{prefix}{dot}{leaf.name}", leaf)
        if times[last] == 1:
            table.setdefault(last, leaf)
    return table


def defaults_of(f: "Field[Any]", outer: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults that a part's field, and over it the settings that hold the part, give to the part's own fields."""
    return {**f.metadata.get("defaults", {}), **outer.get(f.name, {})}


def _collect(kind: type[Any], table: str, defaults: Mapping[str, Any]) -> list[Leaf]:
    collected: list[Leaf] = []
    for f in fields(kind):
        hint = hints(kind)[f.name]
        path = f"{table}{f.name}"
        if is_part(hint):
            collected += _collect(hint, f"{path}.", defaults_of(f, defaults))
        else:
            default = defaults.get(f.name, _default(f))
            collected.append(Leaf(path, f.metadata.get("flag") or f.name, hint, default, f.metadata))
    return collected


def _default(f: "Field[Any]") -> Any:
    return f.default_factory() if f.default_factory is not MISSING else f.default
