"""Settings as TOML, both ways. Reading is the standard library's; it has no writer."""
import math
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vitrail.core.errors import SettingsError

_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_BARE = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")
_LARGEST = 1 << 20          # bytes; a file of settings is a page, not a book


def dump(values: Mapping[str, Any], *, table: str = "") -> str:
    """One line a value: str, bool, int, float, or a list of these; a mapping becomes a table, behind the values.

    A None is left out: TOML has no word for it. table: the name of the table that the values stand in, for tables
    within it. Raises SettingsError for a value of another kind.

        dump({"out": "runs/a", "training": {"lr": 0.1}})    # out = "runs/a"  and below it  [training]  lr = 0.1
    """
    lines = [f"{_key(k)} = {_value(k, v)}\n" for k, v in values.items() if v is not None and not isinstance(v, Mapping)]
    for name, inner in values.items():
        if isinstance(inner, Mapping):
            path = f"{table}{_key(name)}"
            blank = "\n" if lines else ""
            lines.append(f"{blank}[{path}]\n{dump(inner, table=f'{path}.')}")
    return "".join(lines)


def load(path: Path) -> dict[str, Any]:
    """The values of a file. Raises SettingsError where it cannot be read, or is not TOML (a key given twice, say)."""
    try:
        if path.stat().st_size > _LARGEST:
            raise SettingsError(f"{path} has more than {_LARGEST} bytes: this is not a file of settings")
        return tomllib.loads(path.read_bytes().decode())
    except OSError as e:
        raise SettingsError(f"cannot read the settings {path}: {e.strerror or e}") from None
    except (ValueError, RecursionError) as e:       # TOMLDecodeError and UnicodeDecodeError are ValueErrors
        raise SettingsError(f"{path} is not valid TOML: {e}") from None


def value(text: str) -> Any:
    """What a word of the command line means: its value as TOML (1e-3, true, [7, 7], "7"), else the text itself."""
    if "\n" in text or "\r" in text:
        return text
    try:
        found = tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        return text
    return found if isinstance(found, (str, bool, int, float, list)) else text      # no dates, no tables


def _key(name: str) -> str:
    return name if name and set(name) <= _BARE else _text(name)


def _text(text: str) -> str:
    return '"' + "".join(_ESCAPES.get(c, c if c.isprintable() else f"\\U{ord(c):08X}") for c in text) + '"'


def _value(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float) and math.isfinite(value):
        return repr(value)
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_value(name, v) for v in value) + "]"
    raise SettingsError(f"the setting {name!r} has the value {value!r}, which cannot be written as TOML")
