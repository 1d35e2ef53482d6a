"""Measure what the parity tests assert: `python tools/proof.py` writes docs/parity.md.

Each reference, an installed package or recorded official code, is filled with seeded noise, its tensors carried over,
and both asked the same; the difference is the
largest of any logit, as a share of the deviation of the reference's logits.
"""
import os
import platform
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch

import vitrail
from tests.parity.case import Case, Recorded, compared
from tests.parity.test_parity import TOLERANCE, cases
from vitrail.core.catalogue import entries, find

FILE = Path(__file__).parents[1] / "docs" / "parity.md"


def difference(case: Case | Recorded, height: int, width: int) -> float:
    """The largest difference of any logit, over the deviation of the reference's."""
    asked = case.answer(height, width)
    model = vitrail.create_model(case.name, **case.changes, **case.at(height, width))
    vitrail.load_weights(model, asked.state, keys=case.keys)
    with torch.inference_mode():
        theirs, ours = compared(case, asked.logits, model.to(asked.image.dtype)(asked.image))
        return float((theirs - ours).abs().max() / theirs.std())


def worst(index: int) -> float:
    """The largest difference of one of the cases at any of its sizes, in a process with one thread."""
    torch.set_num_threads(1)
    case = cases()[index]
    return max(difference(case, *size) for size in case.sizes)


def _paper(module: str, rows: list[str], found: float) -> str:
    """One paper's line: how many of its systems there are, how large, and how far from the reference."""
    systems = [e for e in entries().values() if e.module == module]
    sizes = sorted(e.params / 1e6 for e in systems)
    cases = sum(f"| {module} |" in row for row in rows)
    return (f"| {systems[0].paper} ({systems[0].year}) | {len(systems)}: {systems[0].name} ... {systems[-1].name} | "
            f"{sizes[0]:.1f} to {sizes[-1]:.1f} M | {cases} | {found:.1e} |")


def main() -> int:
    rows, papers = [], dict[str, float]()
    every = cases()
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        measured = list(zip(every, pool.map(worst, range(len(every))), strict=True))
    for case, found in measured:
        module = find(case.name).module
        papers[module] = max(papers.get(module, 0.0), found)
        cut = ", ".join(f"{k} {v}" for k, v in case.changes.items())
        sizes = ", ".join(f"{h}x{w}" for h, w in case.sizes)
        how = "package" if isinstance(case, Case) else case.source.partition(":")[0]
        cells = (case.name, module, how, case.keys, cut or "whole", sizes, f"{found:.1e}")
        rows.append(f"| {' | '.join(cells)} |")
    most = max(papers.values())
    head = ["# Noise parity, measured", "",
            f"`python tools/proof.py`, torch {torch.__version__} on {platform.machine()}: the largest difference of "
            f"any logit over the deviation of the reference's. The tests' tolerance is {TOLERANCE:g}; the worst case "
            f"here is {most:.1e}. Of RegionViT, in whose answers noise leaves little of an image, what images change "
            "is compared, in double precision.", "",
            "| paper | systems | parameters | cases | largest difference |", "|---|---|---|---|---|",
            *(_paper(module, rows, found) for module, found in papers.items()), "",
            "| system | module | reference | layout | depth | sizes | largest difference |",
            "|---|---|---|---|---|---|---|"]
    FILE.write_text("\n".join([*head, *rows]) + "\n", encoding="utf-8")
    return int(most > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
