"""Linear layers and convolutions as oneDNN's packed products, with the activation or the residual within them."""
from collections.abc import Callable, Container
from typing import Any

import torch
from torch import Tensor, fx

from vitrail.deploy.plans.graph import VIEWS, Constants, aten, args_of, calls, insert, only_user, shape, tidy

packed = torch.ops.mkldnn
Activation = tuple[str, list[Any], str]         # name, arguments and algorithm, as oneDNN's calls take them
NOTHING: Activation = ("none", [], "")
NAMES: dict[Any, str] = {aten.relu.default: "relu", aten.silu.default: "swish", aten.sigmoid.default: "sigmoid",
                         aten.tanh.default: "tanh", aten.hardswish.default: "hardswish"}
ACTIVATIONS = {"gelu", *NAMES.values()}


def available() -> bool:
    """Whether this build of torch has the packed products."""
    return torch.backends.mkldnn.is_available() and hasattr(packed, "_linear_pointwise")


def convolutions_as_linears(graph: fx.Graph, constants: Constants) -> int:
    """Convolutions that look at one place, and those whose patches stand side by side, are products with a matrix."""
    found = 0
    for conv in list(calls(graph, aten.conv2d.default)):
        x, weight, bias, stride, padding, dilation, groups = _conv(conv)
        if weight.op != "get_attr" or groups != 1 or any(padding) or max(dilation) > 1:
            continue
        size, sides = shape(weight)[2:], shape(x)[2:]
        if size != tuple(stride) or any(side % step for side, step in zip(sides, size, strict=True)):
            continue
        (B, C, H, W), (p, q) = shape(x), size
        with graph.inserting_before(conv):
            last = insert(graph, aten.permute.default, (x, [0, 2, 3, 1]))               # (B, H, W, C)
            matrix = constants.value(weight)
            if p * q > 1:
                if _channels_last(x):
                    split = insert(graph, aten.reshape.default, (last, [B, H // p, p, W // q, q, C]))
                    order, matrix = [0, 1, 3, 2, 4, 5], matrix.permute(0, 2, 3, 1)
                else:
                    split = insert(graph, aten.reshape.default, (x, [B, C, H // p, p, W // q, q]))
                    order = [0, 2, 4, 1, 3, 5]
                turned = insert(graph, aten.permute.default, (split, order))
                last = insert(graph, aten.reshape.default, (turned, [B, H // p, W // q, C * p * q]))
            kept = constants.keep(graph, matrix.flatten(1).contiguous(), constants.name(weight))
            product = insert(graph, aten.linear.default, (last, kept, bias))
            conv.replace_all_uses_with(insert(graph, aten.permute.default, (product, [0, 3, 1, 2])))
        found += 1
    cancel_permutes(graph)
    tidy(graph, constants)
    return found


def cancel_permutes(graph: fx.Graph) -> None:
    """A map that is turned and turned back stays as it is."""
    for back in list(calls(graph, aten.permute.default)):
        there, order = args_of(back)
        if there.target is aten.permute.default and [there.args[1][i] for i in order] == list(range(len(order))):
            back.replace_all_uses_with(there.args[0])


def _channels_last(x: fx.Node) -> bool:
    return x.target is aten.permute.default and list(args_of(x)[1]) == [0, 3, 1, 2]


def _conv(node: fx.Node) -> tuple[Any, ...]:
    """Input, weight, bias, stride, padding, dilation and groups, none left out."""
    x, weight, bias, stride, padding, dilation, groups = args_of(node, 7)

    def pair(v: Any, default: int) -> list[int]:
        return [default] * 2 if v is None else [*v] * (2 // len(v)) if isinstance(v, list | tuple) else [v, v]
    return x, weight, bias, pair(stride, 1), pair(padding, 0), pair(dilation, 1), groups or 1


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
    told = {"linear": 0, "with activation": 0, "with residual": 0}
    for node in list(calls(graph, aten.linear.default)):
        x, weight, bias = args_of(node, 3)
        if node in besides or weight.op != "get_attr" or len(shape(x)) < 2:
            continue
        kept = packed._reorder_linear_weight(constants.value(weight).contiguous(), torch.Size(shape(x)[:-1]).numel())

        def product(last: fx.Node, residual: fx.Node | None, act: Activation, *, node: fx.Node = node, x: fx.Node = x,
                    bias: fx.Node | None = bias, kept: Tensor = kept) -> fx.Node:
            pack, val = constants.keep(graph, kept), node.meta["val"]
            if residual is None:
                return insert(graph, packed._linear_pointwise.default, (x, pack, bias, *act), val=val)
            return insert(graph, packed._linear_pointwise.binary, (x, residual, pack, bias, "add"), val=val)
        act, residual = take_in(graph, node, product, ACTIVATIONS)
        told["linear"] += 1
        told["with activation"] += act
        told["with residual"] += residual
    tidy(graph, constants)
    return told


def take_in(graph: fx.Graph, node: fx.Node, product: Callable[[fx.Node, fx.Node | None, Activation], fx.Node],
            activations: Container[str]) -> tuple[bool, bool]:
    """Puts a product in the place of a linear layer and of the activation behind it, or else of the sum that it joins.

    product: makes it of the last call that it stands for, what is added, and the activation.
    activations: the names of those that it can take in. Answers whether it took in an activation and a residual.
    """
    last, residual, act = node, None, NOTHING
    user = only_user(node)
    if user is not None and (found := _activation(user)) is not None and found[0] in activations:
        last, act = user, found
    elif (joined := _residual(node)) is not None:
        last, residual = joined
    with graph.inserting_before(last):
        if residual is not None and shape(residual) != shape(node):
            residual = insert(graph, aten.reshape.default, (residual, list(shape(node))))
        made = product(last, residual, act)
        if shape(last) != shape(node):
            made = insert(graph, aten.reshape.default, (made, list(shape(last))))
    last.replace_all_uses_with(made)
    return act is not NOTHING, residual is not None


def _activation(node: fx.Node) -> Activation | None:
    if node.target is aten.gelu.default:
        return "gelu", [], str(node.kwargs.get("approximate", node.args[1] if len(node.args) > 1 else "none"))
    name = NAMES.get(node.target)
    return None if name is None else (name, [], "")


def _residual(node: fx.Node) -> tuple[fx.Node, fx.Node] | None:
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


def pack_convolutions(graph: fx.Graph, constants: Constants) -> dict[str, int]:
    """Every convolution with a constant weight."""
    told = {"convolution": 0, "convolution with activation": 0}
    for node in list(calls(graph, aten.conv2d.default)):
        x, weight, bias, stride, padding, dilation, groups = _conv(node)
        if weight.op != "get_attr":
            continue
        kept = packed._reorder_convolution_weight(
            constants.value(weight).contiguous(memory_format=torch.channels_last), padding, stride, dilation, groups,
            list(shape(x)))
        last, act = node, NOTHING
        user = only_user(node)
        turned = only_user(user) if user is not None and user.target is aten.permute.default else None
        if user is not None and (found := _activation(user)):
            last, act = user, found
        elif user is not None and turned is not None and (found := _activation(turned)):    # it minds no order
            turned.replace_all_uses_with(user)
            act = found
        with graph.inserting_before(last):
            pack = constants.keep(graph, kept)
            made = graph.call_function(packed._convolution_pointwise.default,
                                       (x, pack, bias, padding, stride, dilation, groups, *act))
            made.meta["val"] = node.meta["val"]
        last.replace_all_uses_with(made)
        told["convolution"] += 1
        told["convolution with activation"] += act is not NOTHING
    tidy(graph, constants)
    return told


def to_bfloat16(graph: fx.Graph, constants: Constants) -> None:
    """The image, every constant and all between them as bfloat16; the answer is float32 again."""
    for node in list(graph.nodes):
        if node.op == "get_attr" and constants.value(node).dtype == torch.float32:
            with graph.inserting_before(node):
                node.replace_all_uses_with(constants.keep(graph, constants.value(node).bfloat16()))
        elif node.op == "placeholder":
            with graph.inserting_after(node):
                low = insert(graph, aten.to.dtype, (node, torch.bfloat16))
            node.replace_all_uses_with(low, delete_user_cb=lambda user, keep=low: user is not keep)
        elif node.op == "output":
            with graph.inserting_before(node):
                node.replace_input_with(node.args[0], insert(graph, aten.to.dtype, (node.args[0], torch.float32)))
    for node in graph.nodes:
        if node.op == "call_function" and node.meta.get("val") is not None:
            node.meta["val"] = node.target(*fx.map_arg(node.args, lambda n: n.meta["val"]), **node.kwargs)
    tidy(graph, constants)
