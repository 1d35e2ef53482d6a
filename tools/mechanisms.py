"""Measure what tests/attention/test_proofs.py asserts: `python tools/mechanisms.py` writes docs/mechanisms.md.

Every mechanism of attention, position code and foundation with what it is compared with and how far apart the two are:
the largest difference of any output, over the deviation of the reference's outputs.
"""
import platform
import sys
from pathlib import Path

import torch

from tests.attention.proof import Proof
from tests.attention.test_proofs import proofs
from vitrail.core.catalogue import entries, names

FILE = Path(__file__).parents[1] / "docs" / "mechanisms.md"
KINDS = {"attention": "Mechanisms of attention", "position": "Position codes", "foundation": "Foundations"}
HOW = {"package": "an installed package, live", "golden": "the official code, recorded",
       "property": "an exact property"}


def line(name: str, found: list[tuple[Proof, float]]) -> list[str]:
    """The rows of one name: one a proof, the strongest kind first."""
    order = list(HOW)
    ranked = sorted(found, key=lambda f: order.index(f[0].how))
    alone = all(p.how == "property" for p, _ in ranked)
    return [f"| {name if i == 0 else ''} | {HOW[p.how]}{' (no reference runs)' if alone else ''} | {p.reference} | "
            f"{apart:.1e} |" for i, (p, apart) in enumerate(ranked)]


def main() -> int:
    measured: dict[str, list[tuple[Proof, float]]] = {}
    failed = 0
    for proof in proofs():
        apart = proof.difference()
        failed += not apart <= proof.tolerance
        measured.setdefault(proof.name, []).append((proof, apart))
        print(f"{proof}: {apart:.1e}", flush=True)
    unproven = [n for kind in KINDS for n in names(kind) if n not in measured]
    total = sum(len(names(kind)) for kind in KINDS)
    properties = sum(all(p.how == "property" for p, _ in m) for m in measured.values())
    head = ["# Mechanisms, position codes and foundations, proven", "",
            f"`python tools/mechanisms.py`, torch {torch.__version__} on {platform.machine()}: {total} names, "
            f"{len(unproven)} unproven, {properties} by exact properties alone. A difference is the largest of any "
            "output, over the deviation of the reference's outputs; weights and inputs are seeded noise."]
    for kind, title in KINDS.items():
        head += ["", f"## {title}", "", "| name | how | compared with | largest difference |", "|---|---|---|---|"]
        for name in names(kind):
            head += line(name, measured.get(name, [])) or [f"| {name} | **unproven** ({entries()[name].paper}) | | |"]
    FILE.write_text("\n".join(head) + "\n", encoding="utf-8")
    return int(bool(failed or unproven))


if __name__ == "__main__":
    sys.exit(main())
