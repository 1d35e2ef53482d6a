"""What is cut away at the end is not computed: slices of tokens move towards the image as far as they can."""
from collections.abc import Callable
from typing import Any

from torch import fx

from vitrail.deploy.cpu.graph import Constants, aten, args_of, calls, insert, shape, sweep, tidy

ALONE = {aten.gelu.default, aten.relu.default, aten.silu.default, aten.hardswish.default, aten.sigmoid.default,
         aten.tanh.default, aten.clone.default, aten.dropout.default}
"""Calls that treat each number alone."""
ROWS = {aten.layer_norm.default, aten.linear.default}
"""Calls that treat each row of the last axis alone."""
BOTH = {aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor}


def sink(graph: fx.Graph, constants: Constants) -> int:
    """Moves slices ahead of what they cut. How many calls became smaller."""
    found, changed = 0, True
    while changed:
        changed = False
        for node in reversed(list(calls(graph, aten.slice.Tensor, aten.select.int))):
            if node.users and _ahead(graph, node):
                found, changed = found + 1, True
        sweep(graph)
    tidy(graph, constants)
    return found


def _ahead(graph: fx.Graph, cut: fx.Node) -> bool:
    """Moves one slice ahead of the call that it cuts, where that answers nobody else and the call allows it."""
    if cut.target is aten.select.int:
        return _select(graph, cut)
    call = args_of(cut)[0]
    if not isinstance(call, fx.Node) or call.op != "call_function" or not _alike(call, cut):
        return False
    axis, start, end = _where(cut)
    if shape(cut) == shape(call) or len(cut.args) > 4 and cut.args[4] != 1:
        return False
    inputs = _inputs(call, axis)
    if inputs is None:
        return False
    with graph.inserting_before(call):
        new = {node: insert(graph, aten.slice.Tensor, (node, at, start, end)) for node, at in inputs.items()}
        args = fx.map_arg(call.args, lambda n: new.get(n, n))
        smaller = insert(graph, _target(call), _sized(call, args, axis, cut), dict(call.kwargs))
    for user in list(call.users):
        user.replace_all_uses_with(smaller)
    return True


def _select(graph: fx.Graph, cut: fx.Node) -> bool:
    """A selected place becomes a slice of one, and a view without its axis."""
    call, axis, at = args_of(cut)
    if call.op != "call_function" or shape(call)[axis] == 1:
        return False
    axis, at = axis % len(shape(call)), at % shape(call)[axis]
    if _inputs(call, axis) is None or not all(user.target in (aten.select.int, aten.slice.Tensor)
                                              for user in call.users):
        return False
    with graph.inserting_before(cut):
        one = insert(graph, aten.slice.Tensor, (call, axis, at, at + 1))
        cut.replace_all_uses_with(insert(graph, aten.squeeze.dim, (one, axis)))
    return True


def _where(cut: fx.Node) -> tuple[int, int, int]:
    """Axis, start and end of a slice, none of them negative or left out."""
    node, axis, start, end = args_of(cut, 4)[:4]
    sizes = shape(node)
    axis = (axis or 0) % len(sizes)
    first, last, _ = slice(start, end).indices(sizes[axis])
    return axis, first, last


def _alike(call: fx.Node, cut: fx.Node) -> bool:
    """Whether everything that reads `call` cuts it alike."""
    return all(user.target is aten.slice.Tensor and user.args[0] is call and _where(user) == _where(cut)
               and len(user.args) <= 4 for user in call.users)


def _inputs(call: fx.Node, axis: int) -> dict[fx.Node, int] | None:
    """Which inputs are cut, and along which axis, so that the call answers what is left of its `axis`; None where a
    call needs all of them."""
    given, last = args_of(call), len(shape(call)) - 1
    first = given[0]
    if call.target in ALONE or (call.target in ROWS and axis < last):
        wide = call.target is aten.layer_norm.default and len(given[1]) > 1         # over more than a row
        return None if wide else {first: axis}
    if call.target in BOTH and all(isinstance(n, fx.Node) for n in given[:2]):
        if shape(given[0]) == shape(given[1]) == shape(call):
            return {given[0]: axis, given[1]: axis}
    elif call.target is aten.transpose.int:
        one, other = (n % (last + 1) for n in given[1:3])
        return {first: {one: other, other: one}.get(axis, axis)}
    elif call.target is aten.permute.default:
        return {first: given[1][axis] % (last + 1)}
    elif call.target is aten.scaled_dot_product_attention.default and axis == last - 1:
        plain = len(given) <= 3 and set(call.kwargs) <= {"scale"} and first not in given[1:]  # no mask to cut
        return {first: axis} if plain else None
    elif call.target is aten.reshape.default and last > 0:
        return {first: axis} if shape(first)[:axis + 1] == shape(call)[:axis + 1] and axis < last else None
    return None


def _sized(call: fx.Node, args: tuple[Any, ...], axis: int, cut: fx.Node) -> tuple[Any, ...]:
    """The arguments of a smaller call: a view says its own size."""
    if call.target is not aten.reshape.default:
        return args
    sizes = list(shape(call))
    sizes[axis] = shape(cut)[axis]
    return (args[0], sizes)


def _target(call: fx.Node) -> Callable[..., Any]:
    assert callable(call.target)
    return call.target
