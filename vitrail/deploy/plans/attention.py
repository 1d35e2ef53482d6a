"""Attention by what is fastest here: a native kernel, or in bfloat16 products of matrices, a few images at a time.

For the numbers of tokens that images have, torch's fused kernel takes twice as long as either: its tiles are small.
"""
import math

import torch
from torch import Tensor, fx

from vitrail.deploy.native import attention as native
from vitrail.deploy.plans.graph import Constants, aten, args_of, calls, insert, only_user, shape, tidy

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
    """Replaces calls of the fused kernel. How many were replaced, by what."""
    told = {"attention in a native kernel": 0, "attention as products": 0}
    for node in list(calls(graph, aten.scaled_dot_product_attention.default)):
        q, k, v, bias, dropout, causal = args_of(node, 6)
        said = {name: value for name, value in node.kwargs.items() if name != "scale"}
        dtype = node.meta["val"].dtype
        if said or dropout or causal or len(shape(q)) < 4 or not shape(q)[:-2] == shape(k)[:-2] == shape(v)[:-2]:
            continue
        if bias is not None and bias.meta["val"].dtype != dtype:
            continue
        scale = node.kwargs.get("scale") or 1 / math.sqrt(shape(q)[-1])
        with graph.inserting_before(node):
            if native.available(dtype) and (dtype == torch.float32 or shape(q)[-1] % 2 == 0):
                bias = _once(graph, constants, bias)
                made = insert(graph, native.attend, (q, k, v, bias, scale, _order(node)), val=node.meta["val"])
                told["attention in a native kernel"] += 1
            elif dtype == torch.bfloat16 and available() and _scores(shape(q), shape(k)) <= MOST:
                made = insert(graph, attend, (q, k, v, bias, scale), val=node.meta["val"])
                told["attention as products"] += 1
            else:
                continue
            node.replace_all_uses_with(made)
    tidy(graph, constants)
    return told


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
