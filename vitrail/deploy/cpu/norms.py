"""Norms: layer norm by a native kernel, and lengths of vectors that lie across rows by what reads row after row."""
from torch import fx

from vitrail.deploy.cpu.native import norm as native
from vitrail.deploy.cpu.graph import Constants, aten, args_of, calls, insert, tidy


def rewrite(graph: fx.Graph, constants: Constants) -> int:
    """Replaces layer norms over channels, with constant weights or none. How many were."""
    found = 0
    for node in list(calls(graph, aten.layer_norm.default)):
        x, over, weight, bias, epsilon = args_of(node, 5)[:5]
        learned = (weight, bias)
        if len(over) != 1 or any(w is not None and w.op != "get_attr" for w in learned):
            continue
        if not native.available(node.meta["val"].dtype):
            continue
        with graph.inserting_before(node):
            kept = [w and constants.keep(graph, constants.value(w).float(), constants.name(w)) for w in learned]
            made = insert(graph, native.norm, (x, *kept, 1e-5 if epsilon is None else epsilon), val=node.meta["val"])
        node.replace_all_uses_with(made)
        found += 1
    tidy(graph, constants)
    return found


def lengths(graph: fx.Graph, constants: Constants) -> int:
    """Lengths of vectors whose numbers do not lie side by side, as roots of sums of squares: torch's own call goes
    along each vector, at a tenth of the speed. How many were replaced."""
    found = 0
    for node in list(calls(graph, aten.linalg_vector_norm.default)):
        x, power, over, keep = args_of(node, 4)
        if (2 if power is None else power) != 2 or not over or len(over) != 1 or x.meta["val"].stride(over[0]) == 1:
            continue
        with graph.inserting_before(node):
            squares = insert(graph, aten.square.default, (x,))
            total = insert(graph, aten.sum.dim_IntList, (squares, over, bool(keep)))
            node.replace_all_uses_with(insert(graph, aten.sqrt.default, (total,)))
        found += 1
    tidy(graph, constants)
    return found
