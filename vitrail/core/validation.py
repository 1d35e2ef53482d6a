"""The one validator: is a value of the kind that an annotation asks for, and inside its limits?

Settings (`core.settings`) and functions with arguments of their own (`check_number`, `check_choice`) share it, so that
the command line, a file, Python and the code that uses a value refuse the same things in the same words.
"""
import math
import types
from collections.abc import Mapping
from typing import Any, Literal, Union, get_args, get_origin

from vitrail.core.errors import SettingsError, did_you_mean

Limits = Mapping[str, float]        # low <= value <= high, above < value < below
_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", type(None): "left out"}


def limits(*, low: float = -math.inf, high: float = math.inf, above: float = -math.inf,
           below: float = math.inf) -> dict[str, float]:
    """What `check_limits` takes: low <= value <= high, above < value < below."""
    return {"low": low, "high": high, "above": above, "below": below}


def fit(name: str, value: Any, kind: Any) -> Any:
    """The value as the annotation wants it: a whole number given for a float becomes one, a list becomes a tuple.

    kind: int, float, bool, str, a Literal, a class, `X | None`, or a tuple of these. Raises SettingsError where the
    value is of another kind.

        fit("lr", 1, float)                     # 1.0
        fit("betas", [0.9, 0.99], tuple[float, float])
    """
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return _fit_union(name, value, kind)
    if origin is Literal:
        return _fit_choice(name, value, get_args(kind))
    if origin is tuple and isinstance(value, (list, tuple)):
        return _fit_tuple(name, value, kind)
    if kind is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        too_large = isinstance(value, int) and abs(value) > 1e300           # float() would raise OverflowError
        return math.inf if too_large else float(value)
    if kind is int and isinstance(value, int) and not isinstance(value, bool):
        return int(value)
    if isinstance(kind, type) and origin is None and kind not in (int, float) and isinstance(value, kind):
        return value
    raise SettingsError(f"the setting {name!r} is {value!r}, and must be {described(kind)}")


def _fit_union(name: str, value: Any, kind: Any) -> Any:
    options = [option for option in get_args(kind) if option is not type(None)]
    if value is None and len(options) < len(get_args(kind)):
        return None
    if len(options) == 1:                       # `X | None`: what X says of a wrong value, the nearest choice included
        try:
            return fit(name, value, options[0])
        except SettingsError:
            if get_origin(options[0]) is Literal:
                raise
    for option in options:
        try:
            return fit(name, value, option)
        except SettingsError:
            continue
    raise SettingsError(f"the setting {name!r} is {value!r}, and must be {described(kind)}")


def _fit_choice(name: str, value: Any, choices: tuple[Any, ...]) -> Any:
    if any(value == choice and type(value) is type(choice) for choice in choices):
        return value
    raise SettingsError(f"the setting {name!r} is {value!r}, and must be one of {', '.join(map(repr, choices))}."
                        f"{did_you_mean(str(value), [str(choice) for choice in choices])}")


def _fit_tuple(name: str, values: Any, kind: Any) -> tuple[Any, ...]:
    kinds = get_args(kind)
    if is_open_ended(kind):
        kinds = kinds[:1] * len(values)
    if len(kinds) != len(values):
        raise SettingsError(f"the setting {name!r} is {values!r}, and must be {described(kind)}")
    return tuple(fit(name, value, each) for value, each in zip(values, kinds, strict=True))


def is_open_ended(kind: Any) -> bool:
    """Whether an annotation is a tuple of any length, such as `tuple[str, ...]`."""
    return get_origin(kind) is tuple and get_args(kind)[-1] is Ellipsis


def described(kind: Any) -> str:
    """An annotation in words: `a list of 2 values, each a number`."""
    if get_origin(kind) is tuple:
        parts = get_args(kind)
        many = "any number of" if is_open_ended(kind) else str(len(parts))
        return f"a list of {many} values, each {described(parts[0])}"
    if get_origin(kind) in (Union, types.UnionType):
        return " or ".join(described(option) for option in get_args(kind))
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(repr, get_args(kind)))}"
    return _NAMES.get(kind, getattr(kind, "__name__", str(kind)))


def check_limits(name: str, value: Any, low: float, high: float, above: float, below: float) -> None:
    """Raises SettingsError for a number outside the limits, and for one that is not a number. Of a tuple each is meant;
    texts and None have no limits."""
    if isinstance(value, tuple):
        for each in value:
            check_limits(name, each, low, high, above, below)
        return
    if isinstance(value, str) or value is None or (low <= value <= high and above < value < below):
        return
    bounds = [f"at least {low:.15g}" * (low > -math.inf), f"more than {above:.15g}" * (above > -math.inf),
              f"at most {high:.15g}" * (high < math.inf), f"less than {below:.15g}" * (below < math.inf)]
    allowed = " and ".join(bound for bound in bounds if bound) or "a finite number"
    raise SettingsError(f"the setting {name!r} is {value!r}, and must be {allowed}")


def check_ordered(name: str, value: tuple[float, float] | None) -> None:
    """Raises SettingsError where the first of two numbers is above the second."""
    if value is not None and value[0] > value[1]:
        raise SettingsError(f"the setting {name!r} is {value!r}, and its first number must not be above its second")


def check_number(name: str, value: object, low: float, high: float, *, whole: bool = False) -> None:
    """Raises SettingsError where an argument is not a number in [low, high], or not whole where it must be."""
    check_limits(name, fit(name, value, int if whole else float), **limits(low=low, high=high))


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Raises SettingsError where an argument is not one of the choices, with the nearest of them."""
    _fit_choice(name, value, choices)
