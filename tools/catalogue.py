"""Recompute vitrail/core/catalogue.json and lineage.json from the modules: `python tools/catalogue.py` writes them."""
import importlib
import json
import pkgutil
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from vitrail.core import lineage
from vitrail.core.card import Figures, Variant
from vitrail.core.catalogue import FILE
from vitrail.core.mechanism import Mechanism, Position

KINDS = {"backbones": ("backbone", ["classification"]), "foundations": ("foundation", []),
         "attention": ("attention", []), "positions": ("position", [])}


def recompute() -> dict[str, dict[str, object]]:
    """Every Variant, Mechanism and Position at the level of a module of the floors that hold papers, in the order of
    the files and of their lines."""
    table: dict[str, dict[str, object]] = {}
    for floor, (kind, tasks) in KINDS.items():
        for path, module in _modules(floor):
            for name, value in vars(module).items():
                if isinstance(value, (Variant, Mechanism, Position)):
                    assert name not in table, f"{name} stands in two modules: {table[name]['module']}, {path}"
                    paper = module.PAPER
                    table[name] = {
                        "module": path, "kind": kind,
                        "tasks": list(getattr(module, "TASKS", tasks)), **_facts(value), "paper": paper.title,
                        "arxiv": paper.arxiv, "year": paper.year, "builds_on": list(paper.builds_on)}
    return table


def recompute_lineage() -> dict[str, dict[str, object]]:
    """What every paper with a file builds on, by its module: its PAPER without the official code."""
    table: dict[str, dict[str, object]] = {}
    for floor in KINDS:
        for path, module in _modules(floor):
            paper = module.PAPER
            table[path] = {
                "title": paper.title, "arxiv": paper.arxiv, "authors": paper.authors, "year": paper.year,
                "venue": paper.venue, "builds_on": list(paper.builds_on),
                "ideas": [[idea.of, idea.source, idea.what] for idea in paper.ideas]}
    return table


def _modules(floor: str) -> Iterator[tuple[str, ModuleType]]:
    """("backbones.vit", the module) of each file of a package, by name."""
    package = importlib.import_module(f"vitrail.{floor}")
    for info in sorted(pkgutil.iter_modules(package.__path__), key=lambda m: m.name):
        yield f"{floor}.{info.name}", importlib.import_module(f"vitrail.{floor}.{info.name}")


def _facts(value: Variant[Any] | Mechanism | Position) -> dict[str, object]:
    """What a line of the catalogue says of one entry besides its paper."""
    if isinstance(value, Mechanism):
        return {"time": str(value.time), "memory": str(value.memory), "takes": value.takes.value,
                "mixes": not isinstance(value.mixer, str)}
    if isinstance(value, Position):
        return {"enters": value.enters, "learned": value.learned}
    facts = {"params": value.figures.params, "gflops": value.figures.gflops, "weights": [w.name for w in value.weights]}
    if isinstance(value.figures, Figures):
        return {**facts, "image": value.figures.image}
    return {**facts, "length": value.figures.length}


if __name__ == "__main__":
    for file, table in ((FILE, recompute()), (lineage.FILE, recompute_lineage())):
        file.write_text(json.dumps(table, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        print(f"wrote {file}")
