"""Tokens that only change places: rolls, folds into windows and back as one read through an index."""
from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, fx

from vitrail.deploy.plans.graph import VIEWS, Constants, aten, calls, insert, only_user, shape, tidy

COPIES = {aten.roll.default, aten.clone.default, aten.contiguous.default}
MOVES = {*VIEWS, *COPIES, aten.permute.default, aten.transpose.int, aten.slice.Tensor}
PASSED = {*MOVES, aten.index_select.default, aten.expand.default}


def gather(graph: fx.Graph, constants: Constants) -> int:
    """Replaces chains of moves that copy by one gather of whole rows, which the linear layer before it lets pass. How
    many were replaced."""
    found = 0
    for first in list(calls(graph, *MOVES)):
        source = first.args[0]
        if not isinstance(source, fx.Node) or not first.users or (_moves(source) and only_user(source)):
            continue
        chain = _chain(first)
        if not any(node.target in COPIES for node in chain):
            continue
        rows = rows_of(chain, shape(source))
        if rows is None:
            continue
        last = chain[-1]
        with graph.inserting_before(last):
            width = shape(source)[-1]
            table = insert(graph, aten.reshape.default, (source, [-1, width]))
            index = constants.keep(graph, rows)
            picked = insert(graph, aten.index_select.default, (table, 0, index))
            back = insert(graph, aten.reshape.default, (picked, list(shape(last))))
        last.replace_all_uses_with(back)
        found += 1
    tidy(graph, constants)
    return found


def _moves(node: fx.Node) -> bool:
    return node.op == "call_function" and node.target in MOVES


def _chain(first: fx.Node) -> list[fx.Node]:
    """`first` and the moves after it, each the only reader of the one before."""
    chain = [first]
    while (user := only_user(chain[-1])) is not None and _moves(user) and user.args[0] is chain[-1]:
        chain.append(user)
    return chain


def rows_of(chain: Sequence[fx.Node], source: tuple[int, ...]) -> Tensor | None:
    """Which rows of `source`, whose last axis is a row, make the chain's answer; None where it breaks rows up."""
    width, size = source[-1], torch.Size(source).numel()
    places = torch.arange(size).view(source)
    for node in chain:
        places = node.target(places, *node.args[1:], **node.kwargs)     # type: ignore[operator]
    if places.shape[-1] != width:
        return None
    rows = places.reshape(-1, width)
    whole = (rows[:, :1] % width == 0).all() and (rows == rows[:, :1] + torch.arange(width)).all()
    return (rows[:, 0] // width).contiguous() if whole else None


def unmoved(node: fx.Node) -> fx.Node:
    """The tensor whose numbers a node only moves, as long as those before are not more."""
    while passes(node):
        node = node.args[0]         # type: ignore[assignment]
    return node


def passes(node: fx.Node) -> bool:
    """Whether a node only moves numbers, no more than it answers, or says them in another type."""
    given = node.args[0] if node.args else None
    if not isinstance(given, fx.Node):
        return False
    if node.target is aten.to.dtype:
        return bool(given.meta["val"].is_floating_point() and node.meta["val"].is_floating_point())
    return node.target in PASSED and prod(shape(given)) <= prod(shape(node))
