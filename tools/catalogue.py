"""Recompute vitrail/core/catalogue.json from the modules: `python tools/catalogue.py` writes it."""
import importlib
import json
import pkgutil

from vitrail.core.card import Variant
from vitrail.core.catalogue import FILE

KINDS = {"backbones": ("backbone", ["classification"])}


def recompute() -> dict[str, dict[str, object]]:
    """Every module-level Variant of the floors that hold systems, in the order of the files and of their lines."""
    table: dict[str, dict[str, object]] = {}
    for floor, (kind, tasks) in KINDS.items():
        package = importlib.import_module(f"vitrail.{floor}")
        for found in sorted(pkgutil.iter_modules(package.__path__), key=lambda m: m.name):
            module = importlib.import_module(f"vitrail.{floor}.{found.name}")
            for name, value in vars(module).items():
                if isinstance(value, Variant) and value.build.__module__ == module.__name__:
                    table[name] = {
                        "module": f"{floor}.{found.name}", "kind": kind, "tasks": tasks,
                        "params": value.figures.params, "gflops": value.figures.gflops, "image": value.figures.image,
                        "paper": module.PAPER.title, "arxiv": module.PAPER.arxiv, "year": module.PAPER.year,
                        "builds_on": list(module.PAPER.builds_on), "weights": [w.name for w in value.weights]}
    return table


if __name__ == "__main__":
    FILE.write_text(json.dumps(recompute(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"wrote {FILE}")
