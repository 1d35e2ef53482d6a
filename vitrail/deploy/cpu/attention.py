"""Attention by what is fastest here: a native kernel, or in bfloat16 products of matrices, a few images at a time.

For the numbers of tokens that images have, torch's fused kernel takes twice as long as either: its tiles are small.
"""
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from vitrail.deploy.cpu.native import attention as native
from vitrail.deploy.cpu.graph import Constants, aten, args_of, calls, insert, only_user, shape, tidy

TILE = 2**19        # scores at a time: they stay in the processor's caches
MOST = 2**22        # scores of an image beyond which the fused kernel, which holds none, is left


def available() -> bool:
    """Whether this processor multiplies bfloat16 as such."""
    return bool(getattr(torch.cpu, "_is_avx512_bf16_supported", bool)())


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    """softmax(scale q k^T + bias) v for q (B, ..., N, D), k (B, ..., M, D), v (B, ..., M, E); the softmax is in
    float32. The answer (B, ..., H, N, E) lies in memory as (B, ..., N, H, E)."""
    made = q.new_empty(*q.shape[:-3], q.shape[-2], q.shape[-3], v.shape[-1]).transpose(-2, -3)
    step = max(1, TILE // _scores(q.shape, k.shape))
    for at in range(0, len(q), step):
        part = slice(at, at + step)
        scores = torch.matmul(q[part] * scale, k[part].transpose(-1, -2)).float()
        if bias is not None:
            scores += bias[part] if bias.ndim == q.ndim and len(bias) > 1 else bias
        made[part] = torch.matmul(scores.softmax(-1).to(v.dtype), v[part])
    return made


def rewrite(graph: fx.Graph, constants: Constants) -> dict[str, int]:
    """Replaces calls of the fused kernel, and attention that was multiplied out to be mixed with one that no image
    changes. How many were replaced, by what."""
    told = {"attention in a native kernel": _mixtures(graph, constants), "attention as products": 0}
    for node in list(calls(graph, aten.scaled_dot_product_attention.default)):
        q, k, v, bias, dropout, causal = args_of(node, 6)
        said = {name: value for name, value in node.kwargs.items() if name != "scale"}
        dtype = node.meta["val"].dtype
        if said or dropout or causal or len(shape(q)) < 4 or not shape(q)[:-2] == shape(k)[:-2] == shape(v)[:-2]:
            continue
        if bias is not None and bias.meta["val"].dtype != dtype:
            continue
        scale = node.kwargs.get("scale") or 1 / math.sqrt(shape(q)[-1])
        one, other = _of_length_one(constants, q), _of_length_one(constants, k)
        with graph.inserting_before(node):
            if native.available(dtype) and (dtype == torch.float32 or shape(q)[-1] % 2 == 0):
                bias = _once(graph, constants, bias)
                more: dict[str, Any] = {}
                if one and other and one.least == other.least and other.factor is None:
                    q, k, more = one.given, other.given, {"least": one.least}
                    if one.factor is not None:
                        more["factor"] = constants.keep(graph, one.factor)
                made = insert(graph, native.attend, (q, k, v, bias, scale, _order(node)), more, val=node.meta["val"])
                told["attention in a native kernel"] += 1
            elif dtype == torch.bfloat16 and available() and _scores(shape(q), shape(k)) <= MOST:
                made = insert(graph, attend, (q, k, v, bias, scale), val=node.meta["val"])
                told["attention as products"] += 1
            else:
                continue
            node.replace_all_uses_with(made)
    tidy(graph, constants)
    return told


def _mixtures(graph: fx.Graph, constants: Constants) -> int:
    """(fixed + softmax(q k^T) share) v, with `fixed` and `share` constant, in the native kernel."""
    found = 0
    for node in list(calls(graph, aten.matmul.default)):
        mixed, v = args_of(node)
        if mixed.target is not aten.addcmul.default or mixed.kwargs or only_user(mixed) is None:
            continue
        fixed, *factors = args_of(mixed)
        soft, share = sorted(factors, key=lambda factor: factor.target is not aten.softmax.int)
        if soft.target is not aten.softmax.int or args_of(soft)[1] not in (-1, len(shape(soft)) - 1) or \
                only_user(soft) is None or fixed.op != "get_attr" or share.op != "get_attr":
            continue
        scores = args_of(soft)[0]
        if scores.target is not aten.matmul.default or only_user(scores) is None:
            continue
        q, turned = args_of(scores)
        dtype, last = node.meta["val"].dtype, len(shape(q)) - 1
        axes = {at % (last + 1) for at in args_of(turned)[1:3]} if turned.target is aten.transpose.int else set()
        if axes != {last - 1, last} or shape(share)[-2:] != (1, 1) or last < 3 or not native.available(dtype) or \
                dtype == torch.bfloat16 and shape(q)[-1] % 2 or \
                not shape(q)[:-2] == shape(turned)[:-2] == shape(v)[:-2]:
            continue
        with graph.inserting_before(node):
            kept = {name: constants.keep(graph, constants.value(part).float().contiguous(), constants.name(part))
                    for name, part in (("share", share), ("fixed", fixed))}
            node.replace_all_uses_with(insert(graph, native.attend, (q, args_of(turned)[0], v, None, 1.0, _order(node)),
                                              kept, val=node.meta["val"]))
        found += 1
    tidy(graph, constants)
    return found


@dataclass(frozen=True)
class OfLengthOne:
    """What is divided by its rows' lengths, or by the least, and then multiplied with a factor (..., 1, 1)."""

    given: fx.Node
    least: float
    factor: Tensor | None


def _of_length_one(constants: Constants, node: fx.Node) -> OfLengthOne | None:
    factor = None
    if node.target is aten.mul.Tensor and all(isinstance(x, fx.Node) for x in node.args) and \
            args_of(node)[1].op == "get_attr" and shape(args_of(node)[1])[-2:] == (1, 1):
        factor = constants.value(args_of(node)[1]).float()
        node = args_of(node)[0]
    if node.target is not aten.div.Tensor:
        return None
    given, by = args_of(node)
    if isinstance(by, fx.Node) and by.target is aten.expand.default:
        by = args_of(by)[0]
    if not isinstance(by, fx.Node) or by.target is not aten.clamp_min.default:
        return None
    length, least = args_of(by)
    if length.target is not aten.linalg_vector_norm.default:
        return None
    of, power, over, keep = args_of(length, 4)
    last = len(shape(given)) - 1
    if of is not given or (2 if power is None else power) != 2 or over not in ([-1], [last]) or not keep or least <= 0:
        return None
    return OfLengthOne(given, least, factor)


def _once(graph: fx.Graph, constants: Constants, bias: fx.Node | None) -> fx.Node | None:
    """A constant bias of which the same rows return for every image, without what returns."""
    if bias is None or bias.op != "get_attr":
        return bias
    whole = constants.value(bias)
    for count in range(1, len(whole) // 2 + 1):
        if len(whole) % count == 0 and torch.equal(whole[:-count], whole[count:]):
            return constants.keep(graph, whole[:count].clone(), constants.name(bias))
    return bias


def _order(node: fx.Node) -> list[int] | None:
    """The order of an answer's dimensions after the transpositions that follow: so it is best laid out. None where
    there are none."""
    order = list(range(len(shape(node))))
    seen = order
    while (user := only_user(node)) is not None and user.target in (aten.transpose.int, aten.permute.default):
        _, *how = args_of(user)
        if user.target is aten.permute.default:
            seen = [seen[at] for at in how[0]]
        else:
            seen = list(seen)
            seen[how[0]], seen[how[1]] = seen[how[1]], seen[how[0]]
        node = user
    return None if seen == order else seen


def _scores(q: tuple[int, ...], k: tuple[int, ...]) -> int:
    """How many an image has."""
    return math.prod(q[1:-1]) * k[-2]
