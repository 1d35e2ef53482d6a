"""Linear layers in int8: weights by output channel, what they read by tensor, with ranges that were calibrated."""
import functools
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from vitrail.deploy.cpu.native import attention, depthwise, norm
from vitrail.deploy.cpu.native import linear as native
from vitrail.deploy.cpu import equalise, fuse
from vitrail.deploy.cpu.graph import (VIEWS, Constants, aten, args_of, batch, calls, insert, only_user, shape, sweep,
                                        tidy)
from vitrail.deploy.cpu.moves import passes
from vitrail.deploy.cpu.ranges import Calibration, Range, keys, many, observed, rounded

packed = torch.ops.onednn
LEAST = 20.0        # dB of a layer's signal-to-noise ratio, noise of a tenth: below it, it keeps its precision
LARGE = 2**25       # bytes: beyond them an allocator maps fresh memory at each call
FRESH = {"aten.linear.default", "aten.layer_norm.default", "aten.add.Tensor", "aten.mul.Tensor", "aten.cat.default",
         "aten.index_select.default", "aten.scaled_dot_product_attention.default", "aten.conv2d.default",
         "mkldnn._linear_pointwise.default", "mkldnn._linear_pointwise.binary", "mkldnn._convolution_pointwise.default",
         "onednn.qlinear_pointwise.default", "onednn.qlinear_pointwise.binary"}
"""Calls whose answer is memory that nobody else has."""
NATIVE = {norm.norm, attention.attend, depthwise.depthwise}
"""As these, which can round it as well."""
ACTIVATIONS = fuse.ACTIVATIONS - {"sigmoid"}


@functools.cache
def available() -> bool:
    """Whether this build of torch has the products in int8, and this processor sums them up without overflow."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")             # torch announces that its own type of uint8 will go
            x = quantise(torch.ones(2, 64), 1 / 255, 0)
            weight = packed.qlinear_prepack(torch.full((16, 64), 127, dtype=torch.int8), [2, 64])
            found = packed.qlinear_pointwise(x, 1.0, 0, weight, torch.ones(16), torch.zeros(16, dtype=torch.int64),
                                             None, 1.0, 0, torch.float32, "none", [], "")
    except (AttributeError, RuntimeError, NotImplementedError):
        return False
    return bool((found == 255 * 127 * 64).all())        # pairs of such products exceed 16 bits


def quantise(x: Tensor, scale: float, zero: int) -> Tensor:
    """round(x / scale) + zero, from 0 to 255, as uint8."""
    if norm.available(x.dtype):
        return norm.rounded(x, scale, zero)
    if x.dtype == torch.float32:
        whole = torch.quantize_per_tensor(x, scale, zero, torch.quint8)
        return torch.empty(0, dtype=torch.uint8).set_(whole.untyped_storage(), 0, whole.shape, whole.stride())
    if 4 * x.numel() <= LARGE or len(x) == 1:
        return quantise(x.float(), scale, zero)
    return torch.cat([quantise(part, scale, zero) for part in x.chunk(2)])


@dataclass(frozen=True)
class Layer:
    """A linear layer that is to be done in int8: its weight (N, K) and bias (N,) in float32."""

    weight: Tensor
    bias: Tensor | None
    reads: Range


def calibrate(graph: fx.Graph, constants: Constants, calibration: Calibration) -> int:
    """Finds the ranges of what linear layers read, of the calibration's samples the first time, with a graph in float32
    for inputs of the same shapes; and makes channels of layer norms alike, where linear layers would lose
    too much else. How many norms were."""
    if calibration.inputs is None:
        return equalise.apply(graph, constants, calibration.factors)
    calibration.ranges = observed(graph, constants, calibration.inputs)
    losing = {key for key, reads in calibration.ranges.items() if reads.ratio < LEAST}
    if losing:
        found = equalise.factors(graph, constants, calibration.inputs)
        calibration.factors = {name: found[name] for name in found if not losing.isdisjoint(name.split("+"))}
    done = equalise.apply(graph, constants, calibration.factors)
    if done:
        calibration.ranges = observed(graph, constants, calibration.inputs)
    calibration.inputs = None
    return done


def choose(graph: fx.Graph, constants: Constants, ranges: Mapping[str, Range], told: dict[str, int],
           stayed: dict[str, float]) -> dict[fx.Node, Layer]:
    """Which linear layers can be done in int8. `told` gets how many others there are and why, `stayed` the names of
    those that would lose too much, with their signal-to-noise ratio in dB."""
    last = _last(graph)
    told.update({"linear of few rows": 0, "linear of the head": 0, "linear without a range": 0, "linear that loses": 0})
    found: dict[fx.Node, Layer] = {}
    for node, key in keys(graph, constants).items():
        _, weight, bias = args_of(node, 3)
        if not many(node, batch(graph)):
            told["linear of few rows"] += 1
        elif node in last:
            told["linear of the head"] += 1
        elif key not in ranges or bias is not None and bias.op != "get_attr":
            told["linear without a range"] += 1
        elif ranges[key].ratio < LEAST:
            told["linear that loses"] += 1
            stayed[constants.name(weight) or key] = ranges[key].ratio
        else:
            found[node] = Layer(constants.value(weight), None if bias is None else constants.value(bias), ranges[key])
    return found


def _last(graph: fx.Graph) -> set[fx.Node]:
    """The linear layers behind which none follows."""
    ahead: set[fx.Node] = set()                         # what leads to one
    for node in reversed(graph.nodes):
        if node.target in (aten.linear.default, aten.conv2d.default) or node in ahead:
            ahead.update(node.all_input_nodes)
    return {node for node in calls(graph, aten.linear.default) if node not in ahead}


def pack(graph: fx.Graph, constants: Constants, chosen: Mapping[fx.Node, Layer]) -> dict[str, int]:
    """Does the chosen layers in int8, and is the last pass: it writes sums where one of the summands was. How many
    were done, and how many took something in or answer in int8."""
    told = dict.fromkeys(["linear in int8", "int8 in a native kernel", "int8 with activation", "int8 with residual",
                          "int8 to int8"], 0)
    known: dict[tuple[fx.Node, float, int], fx.Node] = {}
    for node, layer in chosen.items():
        x = _quantised(graph, args_of(node)[0], layer.reads, known)
        whole, scales = rounded(layer.weight)

        def product(last: fx.Node, residual: fx.Node | None, act: fuse.Activation, *, node: fx.Node = node,
                    layer: Layer = layer, x: fx.Node = x, whole: Tensor = whole, scales: Tensor = scales) -> fx.Node:
            to, val, reads = None if residual else _reader(last, chosen), node.meta["val"], layer.reads
            if to is not None:
                told["int8 to int8"] += 1
                val = val.to(torch.uint8)
            if native.fits(whole.shape[1], torch.uint8) and fuse.native_activation(act):
                told["int8 in a native kernel"] += 1
                below = scales.double() * reads.scale * reads.zero * whole.double().sum(1)      # of the range's zero
                bias = -below if layer.bias is None else layer.bias - below
                more = {"scale": constants.keep(graph, scales * reads.scale)}
                step = {"step": (to.scale, to.zero)} if to else {"dtype": val.dtype}
                return fuse.native_linear(graph, constants, x, whole, bias, act, residual, val, **more, **step)
            kept = packed.qlinear_prepack(whole, [math.prod(shape(node)[:-1]), whole.shape[1]])
            weight = [constants.keep(graph, t) for t in (kept, scales, torch.zeros(len(scales), dtype=torch.int64))]
            plain = None if layer.bias is None else constants.keep(graph, layer.bias)
            given = (x, reads.scale, reads.zero, *weight)
            if residual is not None:
                how = "sum" if _free(graph, residual, last) else "add"
                other = insert(graph, aten.contiguous.default, (residual,))     # read as if it were
                return insert(graph, packed.qlinear_pointwise.binary,
                              (*given, other, plain, 1.0, 0, val.dtype, 1.0, 0, how, 1.0, *fuse.NOTHING), val=val)
            return insert(graph, packed.qlinear_pointwise.default,
                          (*given, plain, to.scale if to else 1.0, to.zero if to else 0, val.dtype, *act), val=val)
        act, residual = fuse.take_in(graph, node, product, ACTIVATIONS)
        told["linear in int8"] += 1
        told["int8 with activation"] += act
        told["int8 with residual"] += residual
    sweep(graph)
    _round_within(graph)
    tidy(graph, constants)
    return told


def _quantised(graph: fx.Graph, x: fx.Node, to: Range, known: dict[tuple[fx.Node, float, int], fx.Node]) -> fx.Node:
    """A node that answers what x answers in this range, as uint8: made once, and before moves, which are shorter so."""
    if x.meta["val"].dtype == torch.uint8:
        return x
    key = (x, to.scale, to.zero)
    if key not in known:
        inner = _quantised(graph, args_of(x)[0], to, known) if passes(x) else None
        with graph.inserting_after(x):
            if inner is None:
                known[key] = insert(graph, quantise, key, val=x.meta["val"].to(torch.uint8))
            elif x.target is aten.to.dtype:
                known[key] = inner
            else:
                known[key] = insert(graph, x.target, (inner, *x.args[1:]), dict(x.kwargs))      # type: ignore[arg-type]
    return known[key]


def _reader(node: fx.Node, chosen: Mapping[fx.Node, Layer]) -> Range | None:
    """The range in which everybody reads what a node answers; None where somebody reads the numbers themselves."""
    found: set[tuple[float, int]] = set()
    to, waiting = None, [node]
    while waiting:
        one = waiting.pop()
        for user in one.users:
            if user in chosen and args_of(user)[0] is one:
                to = chosen[user].reads
                found.add((to.scale, to.zero))
            elif passes(user) and user.target is not aten.to.dtype:
                waiting.append(user)
            else:
                return None
    return to if len(found) == 1 else None


def _free(graph: fx.Graph, node: fx.Node, last: fx.Node) -> bool:
    """Whether nobody reads the memory of a node's answer after the call `last`."""
    order = {one: at for at, one in enumerate(graph.nodes)}
    while node.target in VIEWS:
        node = args_of(node)[0]
    if not _fresh(node):
        return False
    waiting = [node]
    while waiting:
        for user in waiting.pop().users:
            if order[user] > order[last]:
                return False
            if user is not last and user.target is not quantise and not _fresh(user):
                waiting.append(user)                                # it may answer with the same memory
    return True


def _fresh(node: fx.Node) -> bool:
    return str(node.target) in FRESH or node.target in NATIVE


def _round_within(graph: fx.Graph) -> None:
    """A native kernel rounds what it answers, where that is all that is read of it; views between them are moved."""
    for node in list(calls(graph, quantise)):
        given, *step = args_of(node)
        views = []
        while given.target in {*VIEWS, aten.permute.default} and only_user(given) is not None:
            views.append(given)
            given = args_of(given)[0]
        if given.target not in NATIVE or only_user(given) is None or _adds(given):
            continue
        given.kwargs = {**given.kwargs, "step": tuple(step)}
        for made in (given, *views):
            made.meta["val"] = made.meta["val"].to(torch.uint8)
        node.replace_all_uses_with(args_of(node)[0])
        graph.erase_node(node)


def _adds(node: fx.Node) -> bool:
    """Whether a depthwise convolution adds something to its answer, which it cannot round then."""
    return node.target is depthwise.depthwise and len(node.args) > 5 and node.args[5] is not None
