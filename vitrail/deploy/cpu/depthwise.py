"""Depthwise convolutions as calls of a native kernel, with the activation, the batch norm and the residual behind."""
import operator

import torch
from torch import Tensor, fx

from vitrail.deploy.cpu.native import depthwise as native
from vitrail.deploy.cpu import fuse
from vitrail.deploy.cpu.convolutions import cancel_permutes, conv_args, with_activation
from vitrail.deploy.cpu.graph import Constants, aten, args_of, calls, insert, only_user, shape, tidy

LAST, BACK = [0, 2, 3, 1], [0, 3, 1, 2]                 # the order of a map's axes with its channels last, and back


def rewrite(graph: fx.Graph, constants: Constants) -> dict[str, int]:
    """Replaces those that the kernel has. How many were, and how many took a batch norm and a residual in."""
    told = {"depthwise in a native kernel": 0, "depthwise with batch norm": 0, "depthwise with residual": 0}
    made = [_replace(graph, constants, conv) for conv in list(calls(graph, aten.conv2d.default)) if _fits(conv)]
    told["depthwise in a native kernel"] = len(made)
    if not made:
        return told
    cancel_permutes(graph)
    _sums_before_permutes(graph)
    cancel_permutes(graph)
    tidy(graph, constants)
    for node in made:
        told["depthwise with batch norm"] += _batch_norm(graph, constants, node)
    cancel_permutes(graph)
    tidy(graph, constants)
    for node in made:
        told["depthwise with residual"] += _residual(graph, node)
    tidy(graph, constants)
    return told


def _fits(conv: fx.Node) -> bool:
    x, weight, bias, stride, padding, dilation, groups = conv_args(conv)
    side, channels = [native.SIDE] * 2, shape(x)[1]
    return weight.op == "get_attr" and fuse.constant(bias) and list(shape(weight)) == [channels, 1, *side] and \
        groups == channels and stride in [[step] * 2 for step in native.STRIDES] and padding[0] == padding[1] and \
        dilation == [1, 1] and native.available(conv.meta["val"].dtype)


def _replace(graph: fx.Graph, constants: Constants, conv: fx.Node) -> fx.Node:
    """Puts the call, and what turns its map, in the place of a convolution and its activation."""
    x, weight, bias, stride, padding, *_ = conv_args(conv)
    last, act = with_activation(conv, fuse.native_activation)
    with graph.inserting_before(last):
        turned = insert(graph, aten.permute.default, (x, LAST))
        filters = constants.keep(graph, constants.value(weight).float().flatten(1).T.contiguous())
        kept = None if bias is None else constants.keep(graph, constants.value(bias).float())
        made = insert(graph, native.depthwise, (turned, filters, kept, act[0]),
                      {"stride": stride[0], "padding": padding[0]}, val=conv.meta["val"].permute(LAST))
        back = insert(graph, aten.permute.default, (made, BACK))
    last.replace_all_uses_with(back)
    return made


def _sums_before_permutes(graph: fx.Graph) -> None:
    """What is turned alike is turned after it is summed up."""
    for node in list(calls(graph, aten.add.Tensor)):
        summed = args_of(node)[:2]
        if node.kwargs or not all(isinstance(n, fx.Node) and n.target is aten.permute.default for n in summed):
            continue
        (one, order), (other, same) = map(args_of, summed)
        if order != same or shape(one) != shape(other):
            continue
        with graph.inserting_before(node):
            total = insert(graph, aten.add.Tensor, (one, other))
            node.replace_all_uses_with(insert(graph, aten.permute.default, (total, order)))


def _batch_norm(graph: fx.Graph, constants: Constants, node: fx.Node) -> bool:
    """Takes the batch norm in that alone reads the map."""
    back = only_user(node)
    norm = only_user(back) if back is not None and back.target is aten.permute.default else None
    if back is None or norm is None or norm.target is not aten._native_batch_norm_legit_no_training.default:
        return False
    _, weight, bias, mean, variance, _, epsilon = args_of(norm)
    parts = (weight, bias, mean, variance)
    if not all(part is not None and part.op == "get_attr" for part in parts) or \
            not all(user.target is operator.getitem and user.args[1] == 0 for user in norm.users):
        return False
    w, b, m, v = (constants.value(part).double() for part in parts)
    scale: Tensor = w / torch.sqrt(v + epsilon)
    with graph.inserting_before(node):
        node.args = (*node.args, tuple(constants.keep(graph, t.float()) for t in (scale, b - m * scale)))
    for user in list(norm.users):
        user.replace_all_uses_with(back)
    return True


def _residual(graph: fx.Graph, node: fx.Node) -> bool:
    """Takes the sum in that alone reads the map."""
    joined = fuse.residual_of(node)
    if joined is None:
        return False
    last, other = joined
    with graph.inserting_before(last):
        if shape(other) != shape(node):
            other = insert(graph, aten.reshape.default, (other, list(shape(node))))
        x, filters, bias, act, *affine = node.args
        made = insert(graph, native.depthwise, (x, filters, bias, act, affine[0] if affine else None, other),
                      dict(node.kwargs), val=node.meta["val"])
        if shape(last) != shape(node):
            made = insert(graph, aten.reshape.default, (made, list(shape(last))))
    last.replace_all_uses_with(made)
    return True
