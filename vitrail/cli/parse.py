"""The words of `vitrail train` as settings: flags made from the fields of a dataclass, over a file of TOML.

`--weight-decay 0.1`, `--weight_decay=0.1` and `weight_decay=0.1` say the same; `--compile` and `--no-compile` are
yes and no. What follows a name is read by the field's kind: a text as it stands, a number as TOML has it.
"""
import contextlib
import re
import types
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from vitrail.core.errors import SettingsError, did_you_mean
from vitrail.core import toml
from vitrail.core.settings import Checked

S = TypeVar("S", bound=Checked)
COMMON = ("settings", "help", "json", "debug")          # flags beside the fields
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def read(kind: type[S], words: Sequence[str], *, command: str = "train") -> tuple[S, Namespace]:
    """The settings that the words of a command give, and the flags `json` and `debug`. Raises SettingsError on any
    other word."""
    values, common = _values(kind, words, command)
    given = toml.load(Path(common.settings)) if common.settings else {}
    named, needed = given | values, [f.name for f in fields(kind) if f.default is MISSING]
    missing = [n for n in needed if n not in named] if set(named) <= set(_hints(kind)) else []
    if missing:
        raise SettingsError(f"the setting {missing[0]!r} is needed: --{dashed(missing[0])} "
                            f"{_metavar(_hints(kind)[missing[0]])}, {_about(kind, missing[0])}")
    try:
        return kind.of(named), common
    except SettingsError as e:
        if any(n not in values and repr(n) in str(e) for n in given):
            raise SettingsError(f"{common.settings}: {e}") from None
        raise


def given(name: str, words: Sequence[str]) -> Any:
    """What the words, or else the file of settings that they name, say of one field; None where they say nothing.

    For finding out of which kind the settings are: nothing is checked, and a file that cannot be read says nothing.
    """
    said: dict[str, str | None] = {}
    for word, after in zip(words, [*words[1:], None], strict=True):
        key, equals, value = word.removeprefix("--").partition("=")
        if equals or word.startswith("--"):
            said.setdefault(key.replace("-", "_"), value if equals else after)
    if said.get(name) is None and said.get("settings"):
        with contextlib.suppress(SettingsError):
            return toml.load(Path(str(said["settings"]))).get(name)
    return said.get(name)


def _values(kind: type[Checked], words: Sequence[str], command: str) -> tuple[dict[str, Any], Namespace]:
    hints, found = _hints(kind), dict[str, Any]()
    common = Namespace(settings="", json=False, debug=False)
    rest = list(words)
    while rest:
        word = rest.pop(0)
        name, flagged, value = _split(word)
        if name in ("json", "debug") and flagged and value is None:
            setattr(common, name, True)
        elif name == "settings" and flagged:
            if common.settings:
                raise SettingsError("--settings is given twice: one file at a time")
            common.settings = value if value is not None else _next(rest, "--settings", "FILE.toml")
        else:
            off = name.startswith("no_") and name not in hints and hints.get(name.removeprefix("no_")) is bool
            name = name.removeprefix("no_") if off else name
            if name not in hints:
                raise SettingsError(f"there is no setting {_split(word)[0]!r}.{_nearest(name, hints)} "
                                    f"See vitrail {command} --help")
            taken = _take(name, hints[name], value, rest, off)
            if name in found and not _open_ended(hints[name]):
                raise SettingsError(f"the setting {name!r} is given twice: {found[name]!r} and {taken!r}")
            found[name] = (*found.get(name, ()), *taken) if _open_ended(hints[name]) else taken
    return found, common


def _split(word: str) -> tuple[str, bool, str | None]:
    """(name with underscores, whether dashes stood before it, what stood behind an equals sign)"""
    flagged = word.startswith("--") and len(word) > 2
    name, equals, value = word.removeprefix("--").partition("=")
    if not flagged and not equals:
        hint = " A flag has two dashes." if word.startswith("-") else ""
        raise SettingsError(f"{word!r} is no setting: write --name value, or name=value.{hint}")
    return name.replace("-", "_"), flagged, value if equals else None


def _take(name: str, kind: Any, value: str | None, rest: list[str], off: bool) -> Any:
    """The value of a field from behind its equals sign or from the words that follow."""
    if kind is bool:
        if off and value is not None:
            raise SettingsError(f"--no-{dashed(name)} takes no value")
        if value is None:
            value = rest.pop(0) if not off and rest and rest[0] in ("true", "false") else "true"
        return not off if value == "true" else toml.value(value)
    if get_origin(kind) is tuple and (value is None or _open_ended(kind)):
        many = None if _open_ended(kind) else len(get_args(kind))
        texts = [value] if value is not None else []
        while not texts or (value is None and len(texts) != many and rest and not rest[0].startswith("--")):
            texts.append(_next(rest, f"--{dashed(name)}", _metavar(kind)))
        if len(texts) == 1 and texts[0].startswith("["):
            return toml.value(texts[0])
        return tuple(_one(text, get_args(kind)[0]) for text in texts)
    return _one(value if value is not None else _next(rest, f"--{dashed(name)}", _metavar(kind)), kind)


def _one(text: str, kind: Any) -> Any:
    """A text by its kind: as it stands where a text is wanted, as a number where one is."""
    if kind is str or get_origin(kind) is Literal:
        return text
    value = toml.value(text)
    return float(text) if isinstance(value, str) and _NUMBER.fullmatch(text) else value     # .5 and 1. too


def _next(rest: list[str], flag: str, metavar: str) -> str:
    if not rest or rest[0].startswith("--"):
        raise SettingsError(f"{flag} needs a value: {flag} {metavar}")
    return rest.pop(0)


def _nearest(name: str, hints: dict[str, Any]) -> str:
    off = [f"no_{n}" for n, kind in hints.items() if kind is bool and name.startswith("no_")]
    return did_you_mean(name, [*hints, *COMMON, *off])


def _hints(kind: type[Checked]) -> dict[str, Any]:
    return get_type_hints(kind)


def _open_ended(kind: Any) -> bool:
    return get_origin(kind) is tuple and get_args(kind)[-1] is Ellipsis


def dashed(name: str) -> str:
    return name.replace("_", "-")


def _about(kind: type[Checked], name: str) -> str:
    return str(next(f for f in fields(kind) if f.name == name).metadata.get("help", ""))


def page(kind: type[Checked], *, usage: str) -> str:
    """The page of help: each field with its kind, what it is, its default and its range, by the class that has it."""
    hints, lines = _hints(kind), [f"usage: {usage}", ""]
    final = {f.name: f for f in fields(kind)}                   # a base's field may have another default in the end
    width = max(len(_flag(f.name, hints[f.name])) for f in fields(kind))
    also = {"--settings FILE.toml": "settings from a file; flags win over it",
            "--json": "print the run's paths and scores as JSON at the end",
            "--debug": "show the traceback of an error"}
    seen: set[str] = set()
    groups = []
    for base in reversed(kind.__mro__):
        own = [final[f.name] for f in (fields(base) if issubclass(base, Checked) else ()) if f.name not in seen]
        seen |= {f.name for f in own}
        if own:
            groups.append(((base.__doc__ or base.__name__).split(" Raises ")[0].splitlines()[0].rstrip("."), own))
    for title, own in reversed(groups):
        lines.append(f"{title}:")
        lines += [_line(f, hints[f.name], width) for f in own]
        lines.append("")
    return "\n".join([*lines, "also:", *(f"  {flag.ljust(width)}  {about}" for flag, about in also.items())])


def _flag(name: str, kind: Any) -> str:
    return f"--[no-]{dashed(name)}" if kind is bool else f"--{dashed(name)} {_metavar(kind)}"


def _line(f: "Field[Any]", kind: Any, width: int) -> str:
    words = [str(f.metadata.get("help", "")), _range(f.metadata.get("limits", {})),
             "" if f.default in (None, "", ()) else "needed" if f.default is MISSING else f"default {_text(f.default)}"]
    return f"  {_flag(f.name, kind).ljust(width)}  {'; '.join(w for w in words if w)}".rstrip()


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _range(limits: dict[str, float]) -> str:
    """What a number may be, as far as that says something: "0 to 1", "above 0, at most 100"."""
    inf = float("inf")
    low, above = limits.get("low", -inf), limits.get("above", -inf)
    high, below = (v if v < 10_000 else inf for v in (limits.get("high", inf), limits.get("below", inf)))
    if low > -inf and high < inf:                       # beyond 10,000 it guards against slips, and is no choice
        return f"{low:g} to {high:g}"
    parts = [f"at least {low:g}" * (low > -inf), f"above {above:g}" * (above > -inf),
             f"at most {high:g}" * (high < inf), f"below {below:g}" * (below < inf)]
    return ", ".join(p for p in parts if p)


def _metavar(kind: Any) -> str:
    origin = get_origin(kind)
    if origin is Literal:
        return "|".join(map(str, get_args(kind)))
    if origin is tuple:
        inner = _metavar(get_args(kind)[0])
        return f"{inner} ..." if _open_ended(kind) else " ".join([inner] * len(get_args(kind)))
    if origin in (Union, types.UnionType):
        return _metavar(get_args(kind)[0])
    return {int: "N", float: "X", str: "TEXT"}.get(kind, "VALUE")
