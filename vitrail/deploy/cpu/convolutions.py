"""Convolutions: as linear layers, where they are such, in a native kernel, or as oneDNN's packed ones."""
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn.functional import unfold

from vitrail.deploy.cpu.native import linear as native
from vitrail.deploy.cpu.fuse import (NOTHING, Activation, activation, constant, native_activation, native_linear,
                                       packed)
from vitrail.deploy.cpu.graph import Constants, aten, args_of, calls, insert, only_user, shape, tidy

WIDE = 16               # channels, below which the native kernel's rows are short


def convolutions_as_linears(graph: fx.Graph, constants: Constants) -> int:
    """Convolutions that look at one place, and those whose patches stand side by side, are products with a matrix."""
    found = 0
    for conv in list(calls(graph, aten.conv2d.default)):
        x, weight, bias, stride, padding, dilation, groups = conv_args(conv)
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


def conv_args(node: fx.Node) -> tuple[Any, ...]:
    """Input, weight, bias, stride, padding, dilation and groups, none left out."""
    x, weight, bias, stride, padding, dilation, groups = args_of(node, 7)

    def pair(v: Any, default: int) -> list[int]:
        return [default] * 2 if v is None else [*v] * (2 // len(v)) if isinstance(v, list | tuple) else [v, v]
    return x, weight, bias, pair(stride, 1), pair(padding, 0), pair(dilation, 1), groups or 1


def pack_convolutions(graph: fx.Graph, constants: Constants) -> dict[str, int]:
    """Every convolution with a constant weight."""
    told = {"convolution": 0, "convolution in a native kernel": 0, "convolution with activation": 0}
    for node in list(calls(graph, aten.conv2d.default)):
        x, weight, bias, stride, padding, dilation, groups = conv_args(node)
        if weight.op != "get_attr":
            continue
        last, act = with_activation(node)
        filters, val = constants.value(weight).contiguous(memory_format=torch.channels_last), node.meta["val"]
        with graph.inserting_before(last):
            if groups == 1 and shape(x)[1] >= WIDE and native.fits(shape(x)[1], val.dtype) and \
                    native_activation(act) and constant(bias):
                turned = insert(graph, aten.permute.default, (x, [0, 2, 3, 1]))             # (B, H, W, C)
                B, N, H, W = val.shape
                more = {"index": constants.keep(graph, places(shape(x)[2:], filters, stride, padding, dilation)),
                        "shape": (B, H, W, N), "image": math.prod(shape(x)[2:])}
                known = None if bias is None else constants.value(bias)
                made = native_linear(graph, constants, turned, filters.permute(0, 2, 3, 1).flatten(1, 2), known, act,
                                     None, val.permute(0, 2, 3, 1), **more)
                made = insert(graph, aten.permute.default, (made, [0, 3, 1, 2]))
                told["convolution in a native kernel"] += 1
            else:
                pack = constants.keep(graph, packed._reorder_convolution_weight(
                    filters, padding, stride, dilation, groups, list(shape(x))))
                made = insert(graph, packed._convolution_pointwise.default,
                              (x, pack, bias, padding, stride, dilation, groups, *act), val=val)
        last.replace_all_uses_with(made)
        told["convolution"] += 1
        told["convolution with activation"] += act is not NOTHING
    tidy(graph, constants)
    return told


def with_activation(conv: fx.Node, accepts: Callable[[Activation], bool] = bool) -> tuple[fx.Node, Activation]:
    """The last call that a convolution can stand for, and its activation; one behind a permutation comes before it.
    accepts: which are taken."""
    user = only_user(conv)
    if user is None:
        return conv, NOTHING
    if (found := activation(user)) is not None and accepts(found):
        return user, found
    turned = only_user(user) if user.target is aten.permute.default else None
    if turned is not None and (found := activation(turned)) is not None and accepts(found):
        turned.replace_all_uses_with(user)
        return conv, found
    return conv, NOTHING


def places(size: tuple[int, ...], filters: Tensor, stride: list[int], padding: list[int],
           dilation: list[int]) -> Tensor:
    """Which places of a map of a size (H, W) each place of a convolution's answer sees, (places, taps) in int32; -1
    where it sees none. filters: (N, C, h, w)."""
    numbered = torch.arange(1.0, math.prod(size) + 1, dtype=torch.float64).view(1, 1, *size)
    seen = unfold(numbered, filters.shape[2:], tuple(dilation), tuple(padding), tuple(stride))
    return (seen[0].T - 1).int().contiguous()
