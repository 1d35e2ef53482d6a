"""Attention in bfloat16 as products of matrices, a few images at a time: for the numbers of tokens that images have,
the fused kernel takes twice as long, since its tiles are small."""
import math

import torch
from torch import Tensor, fx

from vitrail.deploy.plans.graph import Constants, aten, args_of, calls, insert, shape, tidy

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


def products(graph: fx.Graph, constants: Constants) -> int:
    """Replaces calls of the fused kernel in bfloat16. How many were replaced."""
    found = 0
    for node in list(calls(graph, aten.scaled_dot_product_attention.default)):
        q, k, v, bias, dropout, causal = args_of(node, 6)
        said = {name: value for name, value in node.kwargs.items() if name != "scale"}
        if said or dropout or causal or node.meta["val"].dtype != torch.bfloat16 or len(shape(q)) < 4:
            continue
        if bias is not None and bias.meta["val"].dtype != torch.bfloat16 or shape(q)[:-2] != shape(k)[:-2]:
            continue
        if _scores(shape(q), shape(k)) > MOST:
            continue
        scale = node.kwargs.get("scale") or 1 / math.sqrt(shape(q)[-1])
        with graph.inserting_before(node):
            node.replace_all_uses_with(insert(graph, attend, (q, k, v, bias, scale), val=node.meta["val"]))
        found += 1
    tidy(graph, constants)
    return found


def _scores(q: tuple[int, ...], k: tuple[int, ...]) -> int:
    """How many an image has."""
    return math.prod(q[1:-1]) * k[-2]
