"""The compiler of plans for the processor, behind one door: a model and its inputs in, something faster out.

    model --traced--> graph of torch's operations --rewritten, pass by pass--> graph with native and packed calls
          --recorded--> Program: a list of calls, in one block of memory, without Python between native ones

What the passes do is said at the top of their files: `graph` traces and computes constants beforehand, `moves` and
`slices` gather what only moves tokens, `convolutions`, `fuse`, `attention`, `norms` and `depthwise` choose kernels,
`ranges`, `equalise` and `int8` round, `record` and `program` leave Python out.
"""
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor, fx, nn

from vitrail.core.errors import ExportError
from vitrail.deploy.cpu import attention, convolutions, depthwise, fuse, int8, moves, norms, slices
from vitrail.deploy.cpu.graph import fold_constants, microbatch, module, simplify, traced
from vitrail.deploy.cpu.native import build
from vitrail.deploy.cpu.program import Program
from vitrail.deploy.cpu.ranges import Calibration
from vitrail.deploy.structure import Flat

Precision = Literal["fp32", "bf16", "int8"]
Plan = Callable[..., Any]


@dataclass(kw_only=True)
class Report:
    """What was rewritten, how often, and how far the answers moved.

    microbatch: how many samples of the example's batch at once: more would not stay in the processor's caches.
    difference: the largest of any output on the example, as a share of that output's range.
    calibrated: on how many samples, in int8.
    stayed: in int8, the linear layers whose answers would lose too much, by their weights' names, and the
    signal-to-noise ratio that they would have had, in dB.
    """

    precision: str
    rewritten: dict[str, int] = field(default_factory=dict)
    left: str = ""                      # why the model runs as it is, where it does
    microbatch: int = 0
    difference: float = 0.0
    calibrated: int = 0
    stayed: dict[str, float] = field(default_factory=dict)


def compiled(model: nn.Module, inputs: Sequence[Tensor], precision: Precision, report: Report,
             calibration: Calibration | None = None) -> Plan:
    """A plan for inputs of these shapes, or for `report.microbatch` samples of them: tensors in, one tensor or a tuple
    of them out. `report` gets what was rewritten, and how often.

    Raises ExportError, and what torch raises of tracing, where there is none.
    """
    plan = planned(model, inputs, precision, report, calibration)
    return recorded(plan, [leaf[:report.microbatch] for leaf in inputs], report)


def planned(model: nn.Module, inputs: Sequence[Tensor], precision: Precision, report: Report,
            calibration: Calibration | None = None) -> fx.GraphModule:
    """A model's graph for inputs of these shapes, or for `report.microbatch` samples of them, rewritten. `report` gets
    what was, and how often."""
    if precision == "bf16" and fuse.available() and not fuse.bfloat16_available():
        raise ExportError("this processor has no products of bfloat16 (AVX-512 or AVX-NE-CONVERT): fp32")
    flat = Flat(model).eval()
    graph, constants = traced(flat, *inputs)
    report.microbatch = microbatch(graph, 4 if precision == "fp32" else 2)
    if report.microbatch < len(inputs[0]):
        graph, constants = traced(flat, *(leaf[:report.microbatch] for leaf in inputs))
    told = report.rewritten
    told["computed beforehand"] = fold_constants(graph, constants)
    simplify(graph, constants)
    told["moves of tokens"] = moves.gather(graph, constants)
    told["cut away"] = slices.sink(graph, constants)
    chosen: dict[fx.Node, int8.Layer] = {}
    if fuse.available():
        told["convolutions as linear layers"] = convolutions.convolutions_as_linears(graph, constants)
        told["linear layers before moves"] = fuse.linears_before_gathers(graph, constants)
    if calibration is not None:
        told["norms with channels made alike"] = int8.calibrate(graph, constants, calibration)
        chosen = int8.choose(graph, constants, calibration.ranges, told, report.stayed)
    if precision == "bf16" or calibration is not None and attention.available():    # what lies between is fastest so
        fuse.to_bfloat16(graph, constants)
    told.update(attention.rewrite(graph, constants))
    told["lengths of vectors"] = norms.lengths(graph, constants)
    told["layer norm in a native kernel"] = norms.rewrite(graph, constants)
    told.update(depthwise.rewrite(graph, constants))
    if fuse.available():
        told.update(fuse.pack_linears(graph, constants, chosen))
        told.update(convolutions.pack_convolutions(graph, constants))
    if calibration is not None:
        told.update(int8.pack(graph, constants, chosen))
    return module(graph, constants)


def recorded(plan: fx.GraphModule, inputs: Sequence[Tensor], report: Report) -> Plan:
    """A plan as a program, where there are native kernels that it calls."""
    if build.library() is None:
        return plan
    try:
        program = Program(plan, *inputs)
    except ExportError:                                 # one of its calls answers with more than tensors
        return plan
    report.rewritten["native calls without Python"] = program.natives
    return program
