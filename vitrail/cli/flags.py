"""How a setting looks on the command line: its flag, and what stands for its value on a page of help."""
import types
from typing import Any, Literal, Union, get_args, get_origin

from vitrail.core.leaves import Leaf
from vitrail.core.validation import is_open_ended


def dashed(name: str) -> str:
    """weight_decay -> weight-decay"""
    return name.replace("_", "-")


def without_none(kind: Any) -> Any:
    """`X | None` -> X; any other annotation as it is."""
    if get_origin(kind) in (Union, types.UnionType):
        return next(option for option in get_args(kind) if option is not type(None))
    return kind


def metavar(leaf: Leaf) -> str:
    """What the help writes for a value: `N`, `X X`, `fp32|bf16`, or what the setting itself asks for."""
    return leaf.metadata.get("metavar") or _metavar(leaf.kind)


def flag(leaf: Leaf) -> str:
    """`--lr X`, `--[no-]compile`."""
    if leaf.kind is bool:
        return f"--[no-]{dashed(leaf.name)}"
    more = " ..." if is_open_ended(leaf.kind) and leaf.metadata.get("metavar") else ""
    return f"--{dashed(leaf.name)} {metavar(leaf)}{more}"


def _metavar(kind: Any) -> str:
    kind = without_none(kind)
    if get_origin(kind) is Literal:
        return "|".join(map(str, get_args(kind)))
    if get_origin(kind) is tuple:
        inner = _metavar(get_args(kind)[0])
        return f"{inner} ..." if is_open_ended(kind) else " ".join([inner] * len(get_args(kind)))
    return {int: "N", float: "X", str: "TEXT"}.get(kind, "VALUE")
