"""Words for people, JSON for programs: what the commands print. rich is imported only for a terminal."""
import json
import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any


def print_json(value: Any) -> None:
    """One JSON value on standard output."""
    print(json.dumps(plain(value), indent=1, ensure_ascii=False, allow_nan=False))


def print_line(text: str = "") -> None:
    """A line on standard output."""
    print(text)


def log(text: str) -> None:
    """A line on standard error: for people, in the way of no program."""
    print(text, file=sys.stderr, flush=True)


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]], *, right: Sequence[str] = ()) -> None:
    """Rows under headings; `right` names the columns of numbers.

    On a terminal the headings are bold, and a last column of text is cut to fit. In a pipe lines are whole.
    """
    cells = [[str(c) for c in row] for row in rows]
    widths = [max(len(r[i]) for r in [list(columns), *cells]) for i in range(len(columns))]
    if sys.stdout.isatty() and _rich(columns, cells, right, widths):
        return
    for row in [list(columns), *cells]:
        line = (c.rjust(w) if name in right else c.ljust(w) for c, w, name in zip(row, widths, columns, strict=True))
        print("  ".join(line).rstrip())


def _rich(columns: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str], widths: Sequence[int]) -> bool:
    """The table in colour; False where it does not fit the terminal and should be printed whole."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(file=sys.stdout)
    room = console.width - sum(widths[:-1]) - 2 * len(widths)
    if room < (widths[-1] if columns[-1] in right else min(widths[-1], 20)):
        return False
    shown = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name, width in zip(columns, [*widths[:-1], min(widths[-1], room)], strict=True):
        shown.add_column(name, justify="right" if name in right else "left", no_wrap=True, width=width,
                         overflow="ellipsis")
    for row in rows:
        shown.add_row(*(Text(cell) for cell in row))            # Text: a class called [red] is a name, not a colour
    console.print(shown)
    return True


def pairs(values: Mapping[str, Any], *, indent: str = "") -> None:
    """One `name  value` a line, the values under one another."""
    width = max((len(k) for k in values), default=0)
    for name, value in values.items():
        print(f"{indent}{name.ljust(width)}  {value}".rstrip())


def plain(value: Any) -> Any:
    """The value as JSON knows it: tuples as lists, a path as text, what is not finite as null."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, (str, int, bool, type(None))) else str(value)


def millions(count: int) -> str:
    """22050664 -> 22.1 M"""
    return f"{count / 1e6:.1f} M"


def size(pixels: Sequence[int]) -> str:
    """(224, 320) -> 224 x 320, height first"""
    return " x ".join(map(str, pixels))
