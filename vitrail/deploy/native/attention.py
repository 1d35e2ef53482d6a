"""Attention by the native kernel."""
import functools
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from vitrail.deploy.native.build import call, has
from vitrail.deploy.native.norm import Step

BOUNDS = {torch.float32: 1e-5, torch.bfloat16: 4e-2}    # of what is tried at the first use


@functools.cache
def available(dtype: torch.dtype) -> bool:
    """Whether there is a kernel for such numbers here, and it answers like torch's."""
    if not has("attention", dtype):
        return False
    drawn = torch.randn(2, 37, 3, 3, 20, generator=torch.Generator().manual_seed(0)).permute(2, 0, 3, 1, 4).unbind()
    q, k, v = (x.to(dtype) for x in drawn)
    bias = torch.linspace(-1, 1, 37 * 37).view(37, 37).to(dtype)
    expected = scaled_dot_product_attention(q.double(), k.double(), v.double(), bias.double(), scale=0.3)
    return float((attend(q, k, v, bias, 0.3) - expected).abs().max()) <= BOUNDS[dtype]      # nan is not


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float, order: Sequence[int] | None = None,
           step: Step | None = None) -> Tensor:
    """softmax(scale q k^T + bias) v for q (B, ..., N, D), k (B, ..., M, D), v (B, ..., M, E), all of one type that is
    `available`. A bias (P, ..., N, M) of the same type can be expanded so, or returns every P of B.

    order: of the answer's dimensions in memory; without one (..., H, N, E) lies as (..., N, H, E).
    step: rounds the answer to uint8.
    Raises MemoryError where there is none for a head's scores.
    """
    if q.dtype == torch.bfloat16:
        q, k, v = map(_paired, (q, k, v))
    *outer, N, D = q.shape
    M, E = v.shape[-2:]
    whole = [*outer, N, E]
    order = order or [*range(len(whole) - 3), len(whole) - 2, len(whole) - 3, len(whole) - 1]
    laid = q.new_empty([whole[at] for at in order], dtype=torch.uint8 if step else q.dtype)
    out = laid.permute([order.index(at) for at in range(len(whole))])
    if bias is not None and bias.ndim == q.ndim and 1 < len(bias) < len(q):
        q, k, v, answers = (x.unflatten(0, (-1, len(bias))) for x in (q, k, v, out))
        outer = list(q.shape[:-2])
    else:
        answers = out
    if bias is not None:
        bias = bias.expand(*outer, N, M)
    strides = [by for x in (q, k, v, bias, answers) for by in (x.stride() if x is not None else [0] * q.ndim)]
    failed = call("attention", q.dtype, q, k, v, bias, answers, [N, M, D, E, *outer], len(outer), strides, scale,
                  *(step or (0.0, 0)))
    if failed:
        raise MemoryError("there is no memory for the scores of attention")
    return out


def _paired(x: Tensor) -> Tensor:
    """Laid out so that numbers of a row can be read by two."""
    return x if x.stride(-1) == 1 and x.stride(-2) % 2 == 0 else x.contiguous()
