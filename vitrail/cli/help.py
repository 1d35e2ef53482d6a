"""The page of help of a command, made from its settings: one group of lines for each part."""
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from typing import Any

from vitrail.cli.flags import dashed, flag, metavar
from vitrail.core.leaves import Leaf, hints, is_part, leaves
from vitrail.core.settings import Checked
from vitrail.core.validation import is_open_ended

ALSO = {"--settings FILE.toml": "settings from a file; flags win over it",
        "--json": "print one JSON value for a program to read",
        "--plugin FILE.py": "import this file, or a module by name, before anything else",
        "--debug": "show the traceback of an error"}


def page(kind: type[Checked], *, command: str, about: str = "") -> str:
    """The page: usage, what the command does, then each setting with its kind, default and range, grouped by part."""
    width = max([len(_head(leaf)) for leaf in leaves(kind)] + [len(name) for name in ALSO])
    lines = [f"usage: {usage_of(kind, command)}", ""]
    if about:
        lines += [about, ""]
    for title, group in _groups(kind):
        lines.append(f"{title}:")
        lines += [_line(leaf, width) for leaf in group]
        lines.append("")
    also = ALSO if leaves(kind) else {name: about for name, about in ALSO.items() if "settings" not in name}
    return "\n".join([*lines, "also:", *(f"  {name.ljust(width)}  {about}" for name, about in also.items())])


def usage_of(kind: type[Checked], command: str) -> str:
    """`vitrail evaluate MODEL [DATA] [--NAME VALUE] ...`"""
    words = [f"vitrail {command}"]
    for leaf in leaves(kind):
        if leaf.positional:
            word = metavar(leaf) + (" ..." if is_open_ended(leaf.kind) else "")
            words.append(word if leaf.default is MISSING else f"[{word}]")
    words += [f"--{dashed(leaf.name)} {metavar(leaf)}" for leaf in leaves(kind)
              if leaf.default is MISSING and not leaf.positional]
    if any(leaf.default is not MISSING and not leaf.positional for leaf in leaves(kind)):
        either = "" if any(leaf.positional for leaf in leaves(kind)) else " | NAME=VALUE"
        words.append(f"[--NAME VALUE{either}] ...")
    return " ".join(words)


def _groups(kind: type[Checked]) -> list[tuple[str, list[Leaf]]]:
    """(title, leaves) of the positional arguments, of the settings that stand alone, and of each part."""
    positional = [leaf for leaf in leaves(kind) if leaf.positional]
    own = [leaf for leaf in leaves(kind) if not leaf.positional and "." not in leaf.path]
    groups = [("arguments", positional), ("options", own)]
    parts = [f.name for f in fields(kind) if is_part(hints(kind)[f.name])]
    parts.sort(key=lambda name: name == "training")             # everybody's part comes last
    for name in parts:
        title = f"{name}: {_first_sentence(hints(kind)[name])}"
        groups.append((title, [leaf for leaf in leaves(kind) if leaf.path.startswith(f"{name}.")]))
    return [(title, group) for title, group in groups if group]


def _first_sentence(kind: type[Any]) -> str:
    """The first sentence of a class's docstring, without its full stop."""
    first_line = (kind.__doc__ or kind.__name__).splitlines()[0]
    return first_line.partition(". ")[0].rstrip(".")


def _head(leaf: Leaf) -> str:
    return metavar(leaf) if leaf.positional else flag(leaf)


def _line(leaf: Leaf, width: int) -> str:
    words = [leaf.help, _range(leaf.limits), _default(leaf)]
    return f"  {_head(leaf).ljust(width)}  {'; '.join(word for word in words if word)}".rstrip()


def _default(leaf: Leaf) -> str:
    if leaf.default is MISSING:
        return "" if leaf.positional else "needed"
    if leaf.default in (None, "", ()) or leaf.default == "*":
        return ""
    return f"default {_text(leaf.default)}"


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return " ".join(f"{v:.4g}" if isinstance(v, float) else str(v) for v in value)
    return str(value)


def _range(limits: Mapping[str, float]) -> str:
    """What a number may be, as far as that says something: "0 to 1", "above 0, at most 100"."""
    inf = float("inf")
    low, above = limits.get("low", -inf), limits.get("above", -inf)
    high, below = (v if v < 10_000 else inf for v in (limits.get("high", inf), limits.get("below", inf)))
    if low > -inf and high < inf:                       # beyond 10,000 it guards against slips, and is no choice
        return f"{low:g} to {high:g}"
    parts = [f"at least {low:g}" * (low > -inf), f"above {above:g}" * (above > -inf),
             f"at most {high:g}" * (high < inf), f"below {below:g}" * (below < inf)]
    return ", ".join(p for p in parts if p)
