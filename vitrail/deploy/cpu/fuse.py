"""Linear layers in a native kernel or as oneDNN's packed products, with the activation or the residual within them."""
import functools
import math
from collections.abc import Callable, Container
from typing import Any

import torch
from torch import Tensor, fx

from vitrail.deploy.cpu.native import linear as native
from vitrail.deploy.cpu.graph import VIEWS, Constants, aten, args_of, calls, insert, only_user, shape, tidy
from vitrail.deploy.cpu.moves import parts_of

packed = torch.ops.mkldnn
Activation = tuple[str, list[Any], str]         # name, arguments and algorithm, as oneDNN's calls take them
NOTHING: Activation = ("none", [], "")
NAMES: dict[Any, str] = {aten.relu.default: "relu", aten.silu.default: "swish", aten.sigmoid.default: "sigmoid",
                         aten.tanh.default: "tanh", aten.hardswish.default: "hardswish"}
ACTIVATIONS = {"gelu", *NAMES.values()}
FEW = 8                 # cells of the native kernel that a part of a row has at least: it looks each part up


def available() -> bool:
    """Whether this build of torch has the packed products."""
    return torch.backends.mkldnn.is_available() and hasattr(packed, "_linear_pointwise")


@functools.cache
def bfloat16_available() -> bool:
    """Whether the packed products take bfloat16 here: oneDNN refuses it on processors without AVX-512 or
    AVX-NE-CONVERT."""
    try:
        packed._reorder_linear_weight(torch.ones(16, 16, dtype=torch.bfloat16), 1)
    except (AttributeError, RuntimeError):
        return False
    return True


def linears_before_gathers(graph: fx.Graph, constants: Constants) -> int:
    """linear(x) whose rows are gathered is the linear of gathered rows: then a residual can join it."""
    found = 0
    for picked in list(calls(graph, aten.index_select.default)):
        table, _, index = args_of(picked)
        inner = table
        while inner.target in VIEWS and only_user(inner):
            inner = args_of(inner)[0]
        if inner is table or inner.target is not aten.linear.default or not only_user(inner):
            continue
        x, weight, *bias = args_of(inner)
        if shape(weight)[0] != shape(table)[-1]:
            continue
        with graph.inserting_before(picked):
            rows = insert(graph, aten.reshape.default, (x, [-1, shape(x)[-1]]))
            chosen = insert(graph, aten.index_select.default, (rows, 0, index))
            picked.replace_all_uses_with(insert(graph, aten.linear.default, (chosen, weight, *bias)))
        found += 1
    tidy(graph, constants)
    return found


def pack_linears(graph: fx.Graph, constants: Constants, besides: Container[fx.Node] = ()) -> dict[str, int]:
    """Every linear layer with a constant weight, `besides` some. How many were packed, how many took something in."""
    told = {"linear": 0, "linear in a native kernel": 0, "with activation": 0, "with residual": 0}
    for node in list(calls(graph, aten.linear.default)):
        x, weight, bias = args_of(node, 3)
        if node in besides or weight.op != "get_attr" or len(shape(x)) < 2:
            continue

        def product(last: fx.Node, residual: fx.Node | None, act: Activation, *, node: fx.Node = node, x: fx.Node = x,
                    weight: fx.Node = weight, bias: fx.Node | None = bias) -> fx.Node:
            val, matrix = node.meta["val"], constants.value(weight).contiguous()
            if native.fits(shape(weight)[1], val.dtype) and native_activation(act) and constant(bias):
                told["linear in a native kernel"] += 1
                known = None if bias is None else constants.value(bias)
                return native_linear(graph, constants, x, matrix, known, act, residual, val)
            pack = constants.keep(graph, packed._reorder_linear_weight(matrix, math.prod(shape(x)[:-1])))
            if residual is None:
                return insert(graph, packed._linear_pointwise.default, (x, pack, bias, *act), val=val)
            return insert(graph, packed._linear_pointwise.binary, (x, residual, pack, bias, "add"), val=val)
        act, residual = take_in(graph, node, product, ACTIVATIONS)
        told["linear"] += 1
        told["with activation"] += act
        told["with residual"] += residual
    tidy(graph, constants)
    return told


def native_activation(act: Activation) -> bool:
    """Whether the native kernel has it."""
    return act[0] in native.ACTIVATIONS and act[2] != "tanh"


def constant(node: fx.Node | None) -> bool:
    """Whether it is known beforehand, or is none."""
    return node is None or node.op == "get_attr"


def native_linear(graph: fx.Graph, constants: Constants, x: fx.Node, weight: Tensor, bias: Tensor | None,
                  act: Activation, residual: fx.Node | None, val: Tensor, **more: Any) -> fx.Node:
    """A call of the native kernel, that answers what `val` looks like; it reads what is moved where it was."""
    index = {}
    parts = None if "index" in more else parts_of(x, constants, FEW * native.CELL[x.meta["val"].dtype])
    if parts is not None:
        x, weight = insert(graph, aten.reshape.default, (parts.source, [-1, parts.width])), \
            weight.unflatten(1, (-1, parts.width))
        index = {"index": constants.keep(graph, parts.index), "image": parts.image, "shape": tuple(val.shape)}
    given = [constants.keep(graph, native.packed(weight)), len(weight),
             None if bias is None else constants.keep(graph, bias.float()), act[0], residual]
    return insert(graph, native.linear, (x, *given), {**more, **index}, val=val)


def take_in(graph: fx.Graph, node: fx.Node, product: Callable[[fx.Node, fx.Node | None, Activation], fx.Node],
            activations: Container[str]) -> tuple[bool, bool]:
    """Puts a product in the place of a linear layer and of the activation behind it, or else of the sum that it joins.

    product: makes it of the last call that it stands for, what is added, and the activation.
    activations: the names of those that it can take in. Answers whether it took in an activation and a residual.
    """
    last, residual, act = node, None, NOTHING
    user = only_user(node)
    if user is not None and (found := activation(user)) is not None and found[0] in activations:
        last, act = user, found
    elif (joined := residual_of(node)) is not None:
        last, residual = joined
    with graph.inserting_before(last):
        if residual is not None and shape(residual) != shape(node):
            residual = insert(graph, aten.reshape.default, (residual, list(shape(node))))
        made = product(last, residual, act)
        if shape(last) != shape(node):
            made = insert(graph, aten.reshape.default, (made, list(shape(last))))
    last.replace_all_uses_with(made)
    return act is not NOTHING, residual is not None


def activation(node: fx.Node) -> Activation | None:
    if node.target is aten.gelu.default:
        return "gelu", [], str(node.kwargs.get("approximate", node.args[1] if len(node.args) > 1 else "none"))
    name = NAMES.get(node.target)
    return None if name is None else (name, [], "")


def residual_of(node: fx.Node) -> tuple[fx.Node, fx.Node] | None:
    """The sum that a linear layer's answer joins, and what it joins; views between them are allowed."""
    seen = node
    while (user := only_user(seen)) is not None and user.target in VIEWS:
        seen = user
    if user is None or user.target is not aten.add.Tensor or user.kwargs:
        return None
    a, b = user.args[:2]
    other = b if a is seen else a
    if not isinstance(other, fx.Node) or other is seen or shape(other) != shape(seen) or other.op == "get_attr":
        return None
    return user, other


def to_bfloat16(graph: fx.Graph, constants: Constants) -> None:
    """Inputs, constants and all between them as bfloat16, where they are no whole numbers; answers are float32
    again."""
    for node in list(graph.nodes):
        if node.op == "get_attr" and constants.value(node).dtype == torch.float32:
            with graph.inserting_before(node):
                node.replace_all_uses_with(constants.keep(graph, constants.value(node).bfloat16()))
        elif node.op == "placeholder" and node.meta["val"].is_floating_point():
            with graph.inserting_after(node):
                low = insert(graph, aten.to.dtype, (node, torch.bfloat16))
            node.replace_all_uses_with(low, delete_user_cb=lambda user, keep=low: user is not keep)
        elif node.op == "output":
            with graph.inserting_before(node):
                for answer in node.all_input_nodes:
                    if answer.meta["val"].is_floating_point():
                        node.replace_input_with(answer, insert(graph, aten.to.dtype, (answer, torch.float32)))
    for node in graph.nodes:
        if node.op == "call_function" and node.meta.get("val") is not None:
            node.meta["val"] = node.target(*fx.map_arg(node.args, lambda n: n.meta["val"]), **node.kwargs)
    tidy(graph, constants)
