"""Native kernels beside what torch has, at the shapes of models, in one process: `python benchmarks/kernels.py`.

Linear layers and depthwise convolutions beside oneDNN's packed ones, attention beside torch's fused one, layer norm
beside torch's. The answers are compared first. Each layer is there as often as its weights fill 64 MB, as a model's
layers do, so that no weight is found in a cache from the round before; a ratio is the median of the rounds' own ratios,
with its quartiles, above 1 where the native kernel is faster.
"""
import argparse
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor

from vitrail.deploy.cpu.native import attention, depthwise, linear, norm
from vitrail.deploy.cpu import int8
from vitrail.measure.timing import interleaved

FILL = 64 * 2**20           # bytes of weights
MOST = 48                   # layers
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
NEAR = {"fp32": 1e-4, "bf16": 3e-2, "int8": 3e-2}
Call = Callable[[], Tensor]
packed, quantised = torch.ops.mkldnn, torch.ops.onednn

LINEARS = {"ViT-S, 1 image": [(197, 384, 1152, "none"), (197, 384, 1536, "gelu"), (197, 1536, 384, "none")],
           "ViT-S, 4 images": [(788, 384, 1152, "none"), (788, 384, 1536, "gelu"), (788, 1536, 384, "none")],
           "Swin-T, 4 images": [(12544, 96, 288, "none"), (12544, 96, 384, "gelu"), (12544, 384, 96, "none")]}
MAPS = {"PVT v2-b2": [(56, 512, 1, "gelu"), (28, 1024, 1, "gelu"), (14, 1280, 1, "gelu")],
        "MobileViT-S": [(112, 128, 2, "swish"), (56, 256, 1, "swish"), (28, 384, 2, "swish")]}
HEADS = {"ViT-S": (6, 197, 64), "Swin-T's windows": (192, 49, 32), "MobileViT-S": (16, 256, 36)}


def linears(precision: str) -> Iterator[tuple[str, list[Call], list[Call]]]:
    for of, shapes in LINEARS.items():
        for M, K, N, act in shapes:
            how = (act, [], "none" if act == "gelu" else "")
            theirs: list[Call] = []
            ours: list[Call] = []
            for _ in range(min(MOST, FILL // (4 * K * N))):
                x, weight, bias = torch.randn(M, K), torch.randn(N, K) / K**0.5, torch.randn(N)
                if precision == "int8":
                    one, other = of_bytes(x, weight, bias, how)
                else:
                    one, other = of_floats(x, weight, bias, how, DTYPES[precision])
                theirs.append(one)
                ours.append(other)
            yield f"linear {M} x {K} x {N} {act}, {of}", theirs, ours


def of_floats(x: Tensor, weight: Tensor, bias: Tensor, how: tuple[str, list[object], str],
              dtype: torch.dtype) -> tuple[Call, Call]:
    low, kept = x.to(dtype), packed._reorder_linear_weight(weight.to(dtype), len(x))
    short, mine, N = bias.to(dtype), linear.packed(weight.to(dtype)), len(weight)
    return (lambda: packed._linear_pointwise(low, kept, short, *how),
            lambda: linear.linear(low, mine, N, bias, how[0]))


def of_bytes(x: Tensor, weight: Tensor, bias: Tensor, how: tuple[str, list[object], str]) -> tuple[Call, Call]:
    step, zero, N = 8 / 255, 128, len(weight)
    low, whole = int8.quantise(x, step, zero), (weight * 127 / weight.abs().amax(1, keepdim=True)).round()
    scale = weight.abs().amax(1) / 127
    kept = quantised.qlinear_prepack(whole.to(torch.int8), list(x.shape))
    mine, zeros = linear.packed(whole.to(torch.int8)), torch.zeros(N, dtype=torch.int64)
    below, times = bias - step * zero * scale * whole.sum(1), scale * step
    to = torch.bfloat16
    return (lambda: quantised.qlinear_pointwise(low, step, zero, kept, scale, zeros, bias, 1.0, 0, to, *how),
            lambda: linear.linear(low, mine, N, below, how[0], scale=times, dtype=to))


def others(precision: str) -> Iterator[tuple[str, list[Call], list[Call]]]:
    """Depthwise convolutions, attention and layer norm."""
    dtype = DTYPES[precision]
    for of, maps in MAPS.items():
        for side, C, stride, act in maps:
            x, weight, bias = torch.randn(1, side, side, C).to(dtype), torch.randn(C, 1, 3, 3), torch.randn(C)
            kept = packed._reorder_convolution_weight(
                weight.to(dtype).contiguous(memory_format=torch.channels_last), [1, 1], [stride] * 2, [1, 1], C,
                [1, C, side, side])
            filters = weight.flatten(1).T.contiguous()
            given = (kept, bias.to(dtype), [1, 1], [stride] * 2, [1, 1], C, act, [], "none" if act == "gelu" else "")
            yield (f"depthwise {side} x {side} x {C}, stride {stride}, {of}",
                   [lambda x=x, given=given: packed._convolution_pointwise(x.permute(0, 3, 1, 2), *given)
                    .permute(0, 2, 3, 1)],
                   [lambda x=x, w=filters, b=bias, act=act, s=stride: depthwise.depthwise(x, w, b, act, stride=s)])
    for of, (heads, N, D) in HEADS.items():
        q, k, v = torch.randn(1, N, 3, heads, D).to(dtype).permute(2, 0, 3, 1, 4).unbind()
        yield (f"attention {heads} x {N} x {D}, {of}",
               [lambda q=q, k=k, v=v: F.scaled_dot_product_attention(q, k, v)],
               [lambda q=q, k=k, v=v, D=D: attention.attend(q, k, v, None, D**-0.5)])
    for rows, C in ((197, 384), (3136, 96)):
        x, weight, bias = torch.randn(rows, C).to(dtype), torch.randn(C), torch.randn(C)
        short = weight.to(dtype), bias.to(dtype)
        yield (f"layer norm {rows} x {C}", [lambda x=x, C=C, short=short: F.layer_norm(x, (C,), *short, 1e-6)],
               [lambda x=x, w=weight, b=bias: norm.norm(x, w, b, 1e-6)])


def all_of(calls: list[Call]) -> None:
    """Calls them, and keeps no answer: the next takes its memory, as in a model."""
    for call in calls:
        call()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path)
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    torch.manual_seed(0)
    table, rows = Table("", "precision", "torch, us", "native, us", "torch / native", "quartiles"), []
    for precision in ("fp32", "bf16", "int8"):
        for name, theirs, ours in [*linears(precision), *(others(precision) if precision in DTYPES else ())]:
            there, here = theirs[0]().float(), ours[0]().float()
            assert (there - here).abs().max() <= NEAR[precision] * there.abs().max(), name
            sides = {"torch": partial(all_of, theirs), "native": partial(all_of, ours)}
            times = interleaved(sides, rounds=a.rounds, device=torch.device("cpu"))
            ratio, *quartiles = times["torch"].over(times["native"])
            us = {side: 1e6 * t.median / len(ours) for side, t in times.items()}
            rows.append({"what": name, "precision": precision, "us": us, "ratio": ratio, "quartiles": quartiles})
            table.add_row(name, precision, f"{us['torch']:.0f}", f"{us['native']:.0f}", f"{ratio:.2f}",
                          "{:.2f} to {:.2f}".format(*quartiles))
    Console().print(table)
    if a.out:
        a.out.write_text(json.dumps({"threads": a.threads, "torch": torch.__version__, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
