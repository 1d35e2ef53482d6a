"""The modules that hold papers, as the pages of the site name, quote and link them."""
import functools
import importlib
import inspect
import re
from types import ModuleType
from typing import Any

from vitrail.core import catalogue
from vitrail.core.card import Variant
from vitrail.core.catalogue import Entry
from vitrail.core.mechanism import Mechanism, Position

KINDS = {"backbone": "Backbones", "attention": "Mechanisms of attention", "position": "Position codes",
         "foundation": "Models of text"}


@functools.cache
def modules() -> dict[str, list[Entry]]:
    """The modules that hold papers, in the catalogue's order, with what each declares."""
    by_module: dict[str, list[Entry]] = {}
    for entry in catalogue.entries().values():
        by_module.setdefault(entry.module, []).append(entry)
    return by_module


def module_named(module: str) -> ModuleType:
    return importlib.import_module(f"vitrail.{module}")


def docstring(module: str) -> tuple[str, str]:
    """The idea, which is the first paragraph of a module's docstring, and what follows it."""
    idea, _, rest = inspect.cleandoc(module_named(module).__doc__ or "").partition("\n\n")
    return prose(idea), prose(rest)


def prose(text: str) -> str:
    """A docstring's text as Markdown: an angle bracket outside code is only itself."""
    parts = re.split(r"(`[^`]*`)", inspect.cleandoc(text))
    return "".join(part if part.startswith("`") else part.replace("<", "&lt;") for part in parts)


def title(module: str) -> str:
    """What the page is called: the name that the docstring begins with, else the constructor's."""
    head, colon, _ = (module_named(module).__doc__ or "").partition("\n")[0].partition(":")
    if colon and len(head.split()) <= 5:
        return head
    names = list(dict.fromkeys(value.build.__name__ for value in declared(module).values()))
    return " and ".join(names) if len(names) <= 2 else module.rpartition(".")[2].replace("_", " ").capitalize()


def declared(module: str) -> dict[str, Variant[Any] | Mechanism | Position]:
    return {entry.name: catalogue.entry_of(entry.name) for entry in modules()[module]}


def path(module: str) -> str:
    """Where a module's page lies in docs/papers."""
    return f"{module.replace('.', '/')}.md"


def link(module: str, origin: str) -> str:
    """A link from one module's page to another's, or plain code where the other has no page."""
    if module not in modules():
        return f"`{module}`"
    return f"[{title(module)}]({'../' * origin.count('.')}{path(module)})"
