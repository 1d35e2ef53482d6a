"""Cost claims about how time and memory grow with the tokens."""
from collections.abc import Callable, Sequence
from typing import Any

import torch
from matplotlib.axes import Axes
from torch import Tensor, nn

from vitrail.attention.deformable import DeformableMap
from vitrail.attention.lambda_layer import LambdaGlobal, LambdaLocal
from vitrail.backbones.swin import WindowAttention
from vitrail.core.allocator import kept_memory
from vitrail.core.mechanism import LINEAR, Mechanism, Takes
from vitrail.evidence.attention_benchmark import measure as ledger
from vitrail.evidence.claims.claim import Outcome
from vitrail.evidence.exact.exactness import least, worst
from vitrail.evidence.attention_benchmark.pages import COLOURS, plot
from vitrail.measure.fit import Growth, growth
from vitrail.measure.memory import peak_bytes
from vitrail.measure.operations import multiply_adds
from vitrail.measure.timing import interleaved
from vitrail.nn import Attend, Block, SelfAttention, Windows, transformer_block
from vitrail.figures.style import EMBER, GLASS, LEAF, make_axes

SIDES = (48, 64, 96, 128)               # 2,304 to 16,384 places
LINEAR_ONES = ("reformer", "linformer", "linear_attention", "clustered_attention", "big_bird", "window")
# Swin's windows of eight, which divide every map here, shifted
WINDOW = Mechanism(build=WindowAttention, takes=Takes.MAP, time=LINEAR, memory=LINEAR, where="equation 2",
                   mixer=lambda dim, heads, grid: WindowAttention(dim, heads, Windows(8, shift=4)),
                   shows="the weights, (B, windows, heads, 64, 64)")


def explicit(module: nn.Module) -> nn.Module:
    """The module with every map of attention weights held, as papers write it, not passed by in a fused kernel."""
    for part in module.modules():
        if isinstance(part, Attend):
            part.fused = False
    return module.eval()


def told(found: Growth) -> dict[str, float]:
    return {"exponent": found.exponent, "low": found.low, "high": found.high}


def exponent(sizes: Sequence[int], costs: Sequence[int]) -> float:
    """Of exact costs."""
    return growth(sizes, [[c] for c in costs]).exponent


def cost_exponents(smoke: bool) -> Outcome:
    """The ledger, for the mechanisms that the claim names."""
    sides, rounds = ((46, 48), 1) if smoke else (SIDES, 5)
    dim, heads = (16, 2) if smoke else (ledger.DIM, ledger.HEADS)
    rows = ledger.measure(["self_attention", "criss_cross", *LINEAR_ONES[:-1]], sides=sides, rounds=rounds,
                          others={"window": WINDOW}, dim=dim, heads=heads)
    held_map = [side for side in (*sides[:2], 80) if side <= 80]
    peaks = [_peak(explicit(SelfAttention(dim, heads)), torch.randn(1, side * side, dim)) for side in held_map]
    softmax = exponent([side * side for side in held_map], peaks)
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        time, memory = row.time(), row.memory()
        assert time is not None and memory is not None
        found[row.name] = {"time": told(time), "memory": memory.exponent, "tokens": row.tokens, "peak_bytes": row.peak,
                           "seconds": [row.median(i) for i in range(len(row.tokens))]}
    found["self_attention"]["memory_with_its_map_held"] = softmax

    larger = {name: worst([row["time"]["exponent"], row["memory"]]) for name, row in found.items()}
    right = {"softmax": found["self_attention"]["time"]["exponent"] >= 1.8 and softmax >= 1.8,
             "criss_cross": larger["criss_cross"] <= 1.6, **{name: larger[name] <= 1.15 for name in LINEAR_ONES}}
    of = "; ".join(f"{name} {row['time']['exponent']:.2f} and {row['memory']:.2f}" for name, row in found.items())
    wrong = [name for name, good in right.items() if not good]
    return Outcome(
        held=not wrong, numbers={"mechanisms": found, "within": right}, figure=plot(rows),
        finding=f"Exponents of time and memory: {of}; softmax's memory is {softmax:.2f} with its map held, which the "
                f"fused kernel does not. {'All are within the bounds.' if not wrong else 'Beyond: ' + ', '.join(wrong)}"
                f"{'.' if wrong else ''}")


def _peak(module: nn.Module, x: Tensor) -> int:
    with torch.inference_mode():
        return peak_bytes(lambda: module(x))


class OnMap(nn.Module):
    """A layer over tokens, on a map (B, H, W, C)."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.flatten(1, 2)).view_as(x)


def deformable_cost(smoke: bool) -> Outcome:
    """Both mixers alone and as whole encoder layers, in turns."""
    sides, rounds, dim, heads = ((16, 24), 1, 32, 4) if smoke else (SIDES, 5, 256, 8)
    torch.manual_seed(0)

    def layer(mixer: nn.Module) -> Block:
        return transformer_block(mixer, dim, 4.0, 0.0)
    things = {"self-attention": OnMap(SelfAttention(dim, heads)), "deformable": DeformableMap(dim, heads),
              "DETR's layer": layer(OnMap(SelfAttention(dim, heads))),
              "Deformable DETR's layer": layer(DeformableMap(dim, heads))}
    tokens = [side * side for side in sides]
    work: dict[str, list[int]] = {name: [] for name in things}
    seconds: dict[str, list[Sequence[float]]] = {name: [] for name in things}
    for side in sides:
        x = torch.randn(1, side, side, dim, generator=torch.Generator().manual_seed(side))
        calls: dict[str, Callable[[], object]] = {
            name: lambda m=module.eval(), x=x: m(x) for name, module in things.items()}     # type: ignore[misc]
        for name, call in calls.items():
            work[name].append(multiply_adds(call))
        with kept_memory():
            measured = interleaved(calls, rounds=rounds, device=torch.device("cpu"), warm=1)
        for name, times in measured.items():
            seconds[name].append(times.seconds)
    found = {name: {"multiply_adds": work[name], "operations": exponent(tokens, work[name]),
                    "time": told(growth(tokens, seconds[name])),
                    "seconds": [float(torch.tensor(s).median()) for s in seconds[name]]} for name in things}

    def both(name: str) -> tuple[float, float]:
        row: Any = found[name]
        return row["operations"], row["time"]["exponent"]
    square, linear = both("self-attention"), both("deformable")
    figure, axes = make_axes(10, 3.8, 2)
    for name, colour, style in zip(things, (EMBER, LEAF, EMBER, LEAF), ("--", "--", "-", "-"), strict=True):
        row: Any = found[name]
        axes[0].plot(tokens, [n / 1e9 for n in work[name]], color=colour, ls=style, marker=".", label=name)
        axes[1].plot(tokens, [1e3 * s for s in row["seconds"]], color=colour, ls=style, marker=".")
    _log(axes[0], tokens, "places HW", "10^9 multiply-adds")
    _log(axes[1], tokens, "places HW", "milliseconds")
    axes[0].legend(frameon=False)
    whole = both("DETR's layer"), both("Deformable DETR's layer")
    return Outcome(
        held=least(square) >= 1.8 and worst(linear) <= 1.15, figure=figure,
        numbers={"tokens": tokens, "layers": found},
        finding=f"With the places HW, operations and time of self-attention grow with exponents {square[0]:.2f} and "
                f"{square[1]:.2f}, those of deformable attention with {linear[0]:.2f} and {linear[1]:.2f}; of whole "
                f"layers {whole[0][0]:.2f} and {whole[0][1]:.2f} against {whole[1][0]:.2f} and {whole[1][1]:.2f}.")


def lambda_cost(smoke: bool) -> Outcome:
    """Peaks of memory against what one map of weights would take."""
    sides, dim, heads = ((8, 16), 32, 4) if smoke else ((16, 32, 48, 64), 128, 4)
    batches, side = ((1, 2), 8) if smoke else ((1, 2, 4, 8), 32)
    torch.manual_seed(0)

    def peaks(batch: int, side: int) -> dict[str, int]:
        x = torch.randn(batch, side, side, dim)
        things = {"self-attention, map held": explicit(OnMap(SelfAttention(dim, heads))),
                  "self-attention, fused": OnMap(SelfAttention(dim, heads)).eval(),
                  "lambda, global": LambdaGlobal(dim, heads, grid=(side, side)).eval(),
                  "lambda, local": LambdaLocal(dim, heads).eval()}
        return {name: _peak(thing, x) for name, thing in things.items()}
    by_size, by_batch = [peaks(1, s) for s in sides], [peaks(b, side) for b in batches]
    tokens, last = [s * s for s in sides], 4 * heads * sides[-1] ** 4
    found = {name: {"peak_bytes": [p[name] for p in by_size], "peak_bytes_by_batch": [p[name] for p in by_batch],
                    "exponent": exponent(tokens[-2:], [p[name] for p in by_size[-2:]]),
                    "share_of_a_map": by_size[-1][name] / last} for name in by_size[0]}
    lambdas: list[Any] = [found["lambda, global"], found["lambda, local"]]
    held: Any = found["self-attention, map held"]
    figure, axes = make_axes(10, 3.8, 2)
    for name, colour in zip(found, (EMBER, COLOURS["N^1.5"], GLASS, LEAF), strict=True):
        axes[0].plot(tokens, [p[name] / 2**20 for p in by_size], color=colour, marker=".", label=name)
        axes[1].plot(batches, [p[name] / 2**20 for p in by_batch], color=colour, marker=".")
    axes[0].plot(tokens, [4 * heads * n * n / 2**20 for n in tokens], color="#94a3b8", ls="--", label="one map")
    _log(axes[0], tokens, "places N", "peak memory, MiB")
    _log(axes[1], batches, "images in the batch", f"peak memory, MiB, N = {side * side:,}")
    axes[0].legend(frameon=False)
    return Outcome(
        held=all(row["share_of_a_map"] < 1 and row["exponent"] < 1.8 for row in lambdas), figure=figure,
        numbers={"tokens": tokens, "batches": list(batches), "tokens_of_batches": side * side, "layers": found},
        finding=f"At {tokens[-1]:,} places the global lambda layer holds {lambdas[0]['share_of_a_map']:.2f} and the "
                f"local one {lambdas[1]['share_of_a_map']:.2f} of a map of weights at their peaks, growing with "
                f"N^{lambdas[0]['exponent']:.2f} and N^{lambdas[1]['exponent']:.2f}; self-attention that holds its map "
                f"{held['share_of_a_map']:.2f}, with N^{held['exponent']:.2f}. (On the fused kernel it holds none "
                f"either.) From {batches[0]} to {batches[-1]} images the global layer's peak grows "
                f"{lambdas[0]['peak_bytes_by_batch'][-1] / lambdas[0]['peak_bytes_by_batch'][0]:.1f} times: what it "
                "holds of pairs of places are its learned offsets, which all images share. The paper's own form would "
                "hold them for all N² pairs; this one gathers 2 N^1.5.")


def _log(axes: Axes, at: Sequence[int], xlabel: str, title: str) -> None:
    """Both axes logarithmic, the lower one marked where something was measured."""
    axes.set(xscale="log", yscale="log", xlabel=xlabel, title=title)
    axes.set_xticks(at, [f"{n:,}" for n in at])
    axes.set_xticks([], minor=True)


RUNS = {"cost_exponents": cost_exponents, "deformable_cost": deformable_cost, "lambda_cost": lambda_cost}
