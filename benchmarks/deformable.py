"""The core of multi-scale deformable attention, ours and that of transformers, in one process:
`python benchmarks/deformable.py`.

The shapes are Deformable DETR's on an image of 800 x 1066: 8 heads of 32 channels, 4 levels, 4 points. In the encoder
each of the 17821 places asks around itself, in the decoder 300 queries ask anywhere. Answers and gradients are
compared first. Each round calls both, in an order drawn anew; a ratio is the median of the rounds' own ratios, with its
quartiles.
"""
import argparse
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from vitrail.core.torchvision_guard import import_torchvision
from vitrail.measure.memory import peak_bytes
from vitrail.measure.timing import interleaved
from vitrail.ops.deformable import centres, sample_sum

LEVELS = [(100, 134), (50, 67), (25, 34), (13, 17)]
HEADS, DIM, POINTS = 8, 32, 4
Core = Callable[[Tensor, Tensor, Tensor], Tensor]


def ours(value: Tensor, places: Tensor, weights: Tensor) -> Tensor:
    maps = value.split([h * w for h, w in LEVELS], 1)
    return sample_sum([m.unflatten(1, size) for m, size in zip(maps, LEVELS, strict=True)], places, weights).flatten(2)


def of_transformers() -> Core:
    import_torchvision()
    from transformers.models.deformable_detr.modeling_deformable_detr import MultiScaleDeformableAttention
    core, sizes = MultiScaleDeformableAttention(), torch.tensor(LEVELS)
    return lambda value, places, weights: core(value, sizes, LEVELS, None, places, weights, 64)


def asked(queries: int) -> tuple[Tensor, Tensor, Tensor]:
    """Values, places and weights: every place of the pyramid asks around itself, or so many queries ask anywhere."""
    torch.manual_seed(0)
    value = torch.randn(1, sum(h * w for h, w in LEVELS), HEADS, DIM)
    around = centres(LEVELS, value) if queries == value.shape[1] else torch.rand(queries, 2)
    size = torch.tensor(LEVELS).flip(-1)[:, None]
    places = around.view(1, queries, 1, 1, 1, 2) + 3 * torch.randn(1, queries, HEADS, len(LEVELS), POINTS, 2) / size
    weights = torch.rand(1, queries, HEADS, len(LEVELS) * POINTS).softmax(-1)
    return value, places, weights.unflatten(-1, (len(LEVELS), POINTS))


def steps(core: Core, inputs: tuple[Tensor, Tensor, Tensor]) -> dict[str, Callable[[], tuple[Tensor, ...]]]:
    """The two things that are timed."""
    learned = [t.clone().requires_grad_() for t in inputs]

    def forward() -> tuple[Tensor, ...]:
        with torch.no_grad():
            return (core(*inputs),)

    def both() -> tuple[Tensor, ...]:
        out = core(*learned)
        return (out.detach(), *torch.autograd.grad(out, learned, torch.ones_like(out)))
    return {"forward": forward, "forward + backward": both}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--threads", type=int, help="processors to use; torch decides unless told")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    cores = {"ours": ours, "transformers": of_transformers()}
    table = Table("shape", "pass", "ours ms", "transformers ms", "transformers / ours", "ours MB", "transformers MB",
                  title=f"deformable attention's core, {torch.get_num_threads()} threads, {args.rounds} rounds")
    for shape, queries in (("encoder", sum(h * w for h, w in LEVELS)), ("decoder", 300)):
        inputs = asked(queries)
        passes = {name: steps(core, inputs) for name, core in cores.items()}
        for name in passes["ours"]:
            calls = {who: passes[who][name] for who in cores}
            for a, b in zip(calls["ours"](), calls["transformers"](), strict=True):
                # theirs rounds coordinates to [-1, 1] and back, which moves a place by up to 1e-5 pixels
                assert (a - b).abs().max() < 1e-3 * b.std(), "the two disagree"
            times = interleaved(calls, rounds=args.rounds, device=torch.device("cpu"), warm=1, gradients=True)
            middle, low, high = times["transformers"].over(times["ours"])
            megabytes = {who: peak_bytes(call) / 2**20 for who, call in calls.items()}
            table.add_row(f"{shape}, {queries} queries", name, f"{times['ours'].median * 1e3:.1f}",
                          f"{times['transformers'].median * 1e3:.1f}", f"{middle:.2f} ({low:.2f} to {high:.2f})",
                          f"{megabytes['ours']:.0f}", f"{megabytes['transformers']:.0f}")
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
