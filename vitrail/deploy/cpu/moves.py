"""Tokens that only change places: rolls, folds into windows and back as one read through an index."""
from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd, prod

import torch
from torch import Tensor, fx

from vitrail.deploy.cpu.native import depthwise, linear, norm
from vitrail.deploy.cpu.graph import VIEWS, Constants, aten, args_of, calls, insert, only_user, shape, tidy

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
        if torch.equal(rows, torch.arange(prod(shape(source)[:-1]))):      # nothing is moved
            with graph.inserting_before(chain[-1]):
                same = insert(graph, aten.reshape.default, (source, list(shape(chain[-1]))))
            chain[-1].replace_all_uses_with(same)
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


@dataclass(frozen=True)
class Parts:
    """Rows that are made of parts of a source's numbers, `width` of them side by side: which ones, (R, parts) of int32,
    counted in parts. It returns after R rows, `image` parts later."""

    source: fx.Node
    width: int
    index: Tensor
    image: int


def parts_of(x: fx.Node, constants: Constants, least: int) -> Parts | None:
    """The parts of which the rows of x (..., K) are; None where nothing is moved, where they are shorter than `least`,
    and where it is not certain that the source lies row by row, unless whole rows of it are gathered."""
    return _moved(x, constants, least) or _gathered(x, constants)


def _moved(x: fx.Node, constants: Constants, least: int) -> Parts | None:
    chain: list[fx.Node] = []
    while x.op == "call_function" and (x.target in MOVES or x.target is aten.index_select.default):
        if x.target is aten.index_select.default and x.args[2].op != "get_attr":    # type: ignore[union-attr]
            return None
        chain.insert(0, x)
        x = x.args[0]           # type: ignore[assignment]
    if not chain or chain[-1].meta["val"].ndim < 2 or not _row_by_row(x):
        return None
    source, places = shape(x), torch.arange(prod(shape(x)))
    places = places.view(source)
    for node in chain:
        more = node.args[1:] if node.target in MOVES else (node.args[1], constants.value(node.args[2]))  # type: ignore
        places = node.target(places, *more, **node.kwargs)     # type: ignore[operator]
    rows = places.reshape(-1, places.shape[-1])
    if torch.equal(rows.flatten(), torch.arange(rows.numel())):
        return None
    breaks = (rows[:, 1:] != rows[:, :-1] + 1).any(0).nonzero()[:, 0] + 1
    width = gcd(rows.shape[1], source[-1], *breaks.tolist())
    width = gcd(width, *rows[:, ::width].unique().tolist())
    if width < least:
        return None
    index = rows[:, ::width] // width
    images, whole = source[0], prod(source) // width
    of_one, image = index[:len(index) // images], whole // images
    again = (of_one + image * torch.arange(images)[:, None, None]).flatten(0, 1)
    if len(index) % images == 0 and torch.equal(index, again):
        return Parts(x, width, of_one.int().contiguous(), image)
    return Parts(x, width, index.int().contiguous(), whole)


def _gathered(x: fx.Node, constants: Constants) -> Parts | None:
    """Rows of a table, that are gathered."""
    width = shape(x)[-1]
    while x.target in VIEWS:
        x = x.args[0]           # type: ignore[assignment]
    if x.target is not aten.index_select.default:
        return None
    table, axis, index = args_of(x)
    if len(shape(table)) != 2 or axis != 0 or shape(table)[1] != width or index.op != "get_attr":
        return None
    return Parts(table, width, constants.value(index).int()[:, None], len(table.meta["val"]))


def _row_by_row(node: fx.Node) -> bool:
    """Whether what a node answers surely lies as its shape says."""
    given = node.args[0] if node.args else None
    if isinstance(given, fx.Node) and len(node.all_input_nodes) == 1 and isinstance(given.meta["val"], Tensor) and \
            shape(given) == shape(node) and given.meta["val"].dtype != node.meta["val"].dtype:
        return _row_by_row(given)                                   # the same numbers, in another type
    return node.op == "placeholder" or node.target in (linear.linear, norm.norm, depthwise.depthwise, aten.cat.default)


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
