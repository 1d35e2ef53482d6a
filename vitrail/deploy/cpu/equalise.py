"""Channels of a layer norm that are far larger than others made smaller, before int8 rounds all of them by one step.

The norm's weight and bias are divided by a factor for each channel, and the columns of the linear layers that read it
multiplied (SmoothQuant, Xiao et al. 2023, equations 3 and 4 with a strength of one half): the answers stay the same.
"""
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, fx

from vitrail.deploy.cpu.graph import VIEWS, Constants, aten, args_of, batch, calls, shape, tidy
from vitrail.deploy.cpu.ranges import batches, keys, many, watch

Group = tuple[fx.Node, list[fx.Node]]       # a layer norm, and the linear layers that read it


def groups(graph: fx.Graph, constants: Constants) -> dict[str, Group]:
    """Layer norms whose answers nothing but linear layers of many rows reads, by the names of these."""
    named = {node: key for node, key in keys(graph, constants).items() if many(node, batch(graph))}
    found: dict[str, Group] = {}
    for norm in calls(graph, aten.layer_norm.default):
        _, over, weight, bias = args_of(norm, 4)[:4]
        learned = all(part is not None and part.op == "get_attr" for part in (weight, bias))
        readers = _readers(norm) if learned and len(over) == 1 else []
        if readers and all(reader in named for reader in readers):
            found["+".join(sorted(named[reader] for reader in readers))] = norm, readers
    return found


def factors(graph: fx.Graph, constants: Constants, inputs: Sequence[Tensor]) -> dict[str, Tensor]:
    """By the names of `groups`, what each channel (C,) is to be divided by, as these samples show it."""
    there = groups(graph, constants)
    largest: dict[fx.Node, Tensor] = {}

    def note(node: fx.Node, x: Tensor) -> None:
        now = x.abs().reshape(-1, x.shape[-1]).amax(0)
        largest[node] = torch.maximum(largest.get(node, now), now)
    watched = dict.fromkeys([readers[0] for _, readers in there.values()], note)
    for part in batches(inputs, batch(graph)):
        watch(graph, constants, watched, part)
    found: dict[str, Tensor] = {}
    for name, (_, readers) in there.items():
        weights = torch.stack([constants.value(args_of(node)[1]).abs().amax(0) for node in readers]).amax(0)
        factor = (largest[readers[0]] / weights).sqrt()
        usable = factor.isfinite() & (factor > 0)
        found[name] = torch.where(usable, factor / factor[usable].log().mean().exp(), 1.0) if usable.any() \
            else torch.ones_like(factor)
    return found


def apply(graph: fx.Graph, constants: Constants, found: Mapping[str, Tensor]) -> int:
    """Divides and multiplies. How many layer norms were."""
    done = 0
    for name, (norm, readers) in groups(graph, constants).items():
        if name not in found:
            continue
        for node, at, factor in [(norm, 2, 1 / found[name]), (norm, 3, 1 / found[name]),
                                 *((reader, 1, found[name]) for reader in readers)]:
            old = args_of(node)[at]
            with graph.inserting_before(node):
                new = constants.keep(graph, constants.value(old) * factor, constants.name(old))
            node.update_arg(at, new)
        done += 1
    tidy(graph, constants)
    return done


def _readers(norm: fx.Node) -> list[fx.Node]:
    """The linear layers that read a norm's answer; none where something else does."""
    found, waiting = [], [norm]
    while waiting:
        one = waiting.pop()
        for user in one.users:
            if user.target is aten.linear.default and args_of(user)[0] is one:
                found.append(user)
            elif _keeps_rows(user, one):
                waiting.append(user)
            else:
                return []
    return found


def _keeps_rows(node: fx.Node, given: fx.Node) -> bool:
    """Whether the last axis of what a call answers is that of what it was given."""
    if node.op != "call_function" or args_of(node)[0] is not given or shape(node)[-1:] != shape(given)[-1:]:
        return False
    _, *how = args_of(node)
    last = len(shape(given)) - 1
    if node.target is aten.permute.default:
        return bool(how[0][-1] % (last + 1) == last)
    if node.target in (aten.transpose.int, aten.index_select.default):
        axes = how[:2] if node.target is aten.transpose.int else how[:1]
        return all(axis % (last + 1) != last for axis in axes)
    return node.target in VIEWS or node.target in (aten.clone.default, aten.contiguous.default)
