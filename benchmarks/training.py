"""Training steps of ours and timm's, in one process: `python benchmarks/training.py`.

A step is a forward pass, cross-entropy, the backward pass and fused AdamW, without augmentation or data; bf16 is
autocast. In float32 our linear layers are widened, and the process keeps what it frees, for both: so does `vitrail
train`, and "accumulate" and "checkpointing" are options of it. Both networks start from the same seeded noise, and
their losses and gradients are compared first. Each round makes a step with every side, in an order drawn anew; a ratio
is the median of the rounds' own ratios to timm's in float32, with its quartiles. MB: the most that a step allocates,
weights and moments that stand there before left out.
"""
import argparse
import json
import shlex
import sys
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from vitrail.core import catalogue
from vitrail.core.allocator import kept_memory
from vitrail.evidence.engines.forward import CPU, images, pair
from vitrail.measure.machine import machine
from vitrail.measure.memory import peak_bytes
from vitrail.measure.timing import interleaved
from vitrail.nn import Stack
from vitrail.training.optim import optimizer
from vitrail.training.products import Widened

Step = Callable[[], None]
PARTS = 4           # of a batch, one after the other


def step(model: nn.Module, adam: torch.optim.Optimizer, image: Tensor, label: Tensor, *, low: bool,
         widened: bool = False, checkpointing: bool = False, accumulate: int = 1) -> None:
    for part in model.modules():
        if isinstance(part, Stack):
            part.checkpointing = checkpointing
    adam.zero_grad(set_to_none=True)
    with Widened(model, wanted=widened and not low):
        for some, their in zip(image.chunk(accumulate), label.chunk(accumulate), strict=True):
            with torch.autocast("cpu", torch.bfloat16, enabled=low):
                loss = F.cross_entropy(model(some).float(), their) / accumulate
            loss.backward()
    adam.step()


def compared(sides: dict[str, nn.Module], image: Tensor, label: Tensor) -> None:
    """Losses alike, and the gradients' norms; the images are few, for both are long."""
    found = []
    for who, model in sides.items():
        model.zero_grad(set_to_none=True)
        with Widened(model, wanted=who == "vitrail"):
            loss = F.cross_entropy(model(image), label)
            loss.backward()
        found.append((loss.item(), torch.nn.utils.get_total_norm([p.grad for p in model.parameters()]).item()))
    (ours, norm), (theirs, other) = found
    assert abs(ours - theirs) < 1e-4 * theirs and abs(norm - other) < 1e-2 * other, f"the two disagree: {found}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="vit_ti16,deit_s16,swin_t")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, help="processors to use; torch decides unless told")
    parser.add_argument("--out", help="a JSON file for the numbers")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    table = Table("model", "step", "ms", "timm fp32 / it", "MB",
                  title=f"batch {args.batch}, {torch.get_num_threads()} threads, {args.rounds} rounds")
    rows = []
    for name in args.models.split(","):
        size = catalogue.find(name).image
        image, label = images(args.batch, size, CPU), torch.arange(args.batch) % 1000
        sides = {who: model.train().requires_grad_() for who, model in pair(name, size, CPU).items()}
        for part in sides["timm"].modules():
            if hasattr(part, "drop_prob"):          # some of timm skip branches unless told otherwise
                part.drop_prob = 0.0
        compared(sides, image[:2], label[:2])
        calls: dict[str, Step] = {}
        for who, model in sides.items():
            adam, ours = optimizer(model, lr=1e-6, weight_decay=0.05, betas=(0.9, 0.999)), who == "vitrail"
            for low in (False, True):
                kind = f"{who} {'bf16' if low else 'fp32'}"
                calls[kind] = partial(step, model, adam, image, label, low=low, widened=ours)
                if ours:
                    calls[f"{kind}, accumulate {PARTS}"] = partial(calls[kind], accumulate=PARTS)
                    calls[f"{kind}, checkpointing"] = partial(calls[kind], checkpointing=True)
        held = {what: peak_bytes(call) / 2**20 for what, call in calls.items()}
        with kept_memory():
            times = interleaved(calls, rounds=args.rounds, device=CPU, warm=1, gradients=True)
        for what in calls:
            middle, low, high = times["timm fp32"].over(times[what])
            table.add_row(name, what, f"{1e3 * times[what].median:.0f}", f"{middle:.2f} ({low:.2f} to {high:.2f})",
                          f"{held[what]:.0f}")
            rows.append({"model": name, "step": what, "ms": 1e3 * times[what].median, "ratio": middle,
                         "ratio_quartiles": [low, high], "megabytes": held[what]})
    if args.out:
        with open(args.out, "w", encoding="utf-8") as file:
            json.dump({"command": shlex.join(["python", *sys.argv]), "batch": args.batch, "rounds": args.rounds,
                       "machine": machine(CPU, "timm"), "rows": rows}, file, indent=1)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
