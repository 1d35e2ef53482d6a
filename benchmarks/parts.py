"""Where the time of an optimised model goes: `python benchmarks/parts.py --models vit_s16,swin_t --precision fp32`.

Every native kernel and every operation of torch's is called by itself, some rounds, in this process. A row tells the
median time of all calls of a kind, and its share. The title tells the model's multiply-adds by the time of what does
them (linear layers, convolutions, attention), as a share of this machine's best rate of products: of 3072 x 1536 x
1920, before the model's calls, the fastest of all rounds. What a plan leaves out, such as the last block's tokens that
nobody reads, counts as done.
"""
import argparse
import json
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

import vitrail
from vitrail.core import catalogue
from vitrail.measure.product import MULTIPLY_ADDS, packed_product

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.int8}
PRODUCTS = ("linear", "attention", "depthwise", "mkldnn", "onednn")


def rate(precision: str, rounds: int) -> float:
    """Multiply-adds a second of one large product."""
    product, found = packed_product(DTYPES[precision]), []
    for _ in range(rounds):
        start = time.perf_counter()
        product()
        found.append(time.perf_counter() - start)
    return MULTIPLY_ADDS / min(found)


def profile(name: str, precision: str, batch: int, rounds: int) -> dict[str, object]:
    """A model's row of the answer."""
    model, entry = vitrail.create_model(name).eval(), catalogue.find(name, "backbone")
    image = torch.randn(batch, 3, *[entry.image] * 2, generator=torch.Generator().manual_seed(0))
    fast = vitrail.optimize(model, image, precision=precision)
    image = image[:fast.report.microbatch]
    best = rate(precision, rounds)
    parts = fast.profile(image, rounds)
    products = sum(seconds for part, seconds in parts.items() if part.startswith(PRODUCTS))
    return {"model": name, "precision": precision, "images": len(image), "gflops": entry.gflops, "parts": parts,
            "product_gflops": best / 1e9, "share": entry.gflops * 1e9 * len(image) / products / best}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="vit_s16,swin_t,mobilevit_s,pvt_v2_b2")
    parser.add_argument("--precision", nargs="+", choices=list(DTYPES), default=["fp32"])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path)
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    rows = []
    for name in a.models.split(","):
        for precision in a.precision:
            row = profile(name, precision, a.batch, a.rounds)
            rows.append(row)
            show(row)
    if a.out:
        a.out.write_text(json.dumps({"threads": a.threads, "torch": torch.__version__, "rows": rows}, indent=1) + "\n")


def show(row: dict[str, object]) -> None:
    parts = row["parts"]
    assert isinstance(parts, dict)
    whole = sum(parts.values())
    table = Table("", "ms", "%", title=f"{row['model']}, {row['precision']}, {row['images']} at once: products at "
                                       f"{row['share']:.2f} of {row['product_gflops']:.0f} 1e9 multiply-adds a second")
    for part, seconds in sorted(parts.items(), key=lambda item: -item[1]):
        if seconds >= 0.002 * whole:
            table.add_row(part, f"{1e3 * seconds:.2f}", f"{100 * seconds / whole:.1f}")
    Console().print(table)


if __name__ == "__main__":
    main()
