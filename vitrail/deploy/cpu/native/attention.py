"""Attention by the native kernel."""
import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from vitrail.deploy.cpu.native.build import Numbers, call, has, numbers
from vitrail.deploy.cpu.native.norm import Step

Steps = tuple[int, ...]
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
           step: Step | None = None, share: Tensor | None = None, fixed: Tensor | None = None, least: float = 0.0,
           factor: Tensor | None = None) -> Tensor:
    """softmax(scale q k^T + bias) v for q (B, ..., N, D), k (B, ..., M, D), v (B, ..., M, E), all of one type that is
    `available`. A bias (P, ..., N, M) of the same type can be expanded so, or returns every P of B.

    order: of the answer's dimensions in memory; without one (..., H, N, E) lies as (..., N, H, E).
    step: rounds the answer to uint8.
    share, fixed: float32 that can be expanded to (..., 1, 1) and (..., N, M), the second with its numbers side by side;
    with them it is (share softmax(...) + fixed) v.
    least: above 0 the rows of q and k are divided by their lengths first, or by this where they are shorter.
    factor: float32 that can be expanded to (..., 1, 1), which q is multiplied with.
    Raises MemoryError where there is none for a head's scores.
    """
    if q.dtype == torch.bfloat16:
        q, k, v = _paired(q), _paired(k), _values(v)
    outer = q.shape[:-2]
    joined, times = (None if x is None else x.expand(*outer, 1, 1).stride() for x in (share, factor))
    added = None if fixed is None else fixed.expand(*outer, q.shape[-2], k.shape[-2]).stride()
    whole = None if bias is None else tuple(bias.shape), None if bias is None else bias.stride()
    laid = _laid(q.shape, v.shape, *(x.stride() for x in (q, k, v)), *whole, joined, added, times,
                 None if order is None else tuple(order))
    out = q.new_empty(laid.memory, dtype=torch.uint8 if step else q.dtype).permute(laid.axes)
    call("attention", q.dtype, q, k, v, bias, share, fixed, factor, out, laid.sizes, laid.outer,
         laid.strides, scale, least, *(step or (0.0, 0)))
    return out


@dataclass(frozen=True)
class Laid:
    """How the tensors of a call lie: the answer's sizes in memory and the order of its axes there, and what the kernel
    is told."""

    memory: tuple[int, ...]
    axes: tuple[int, ...]
    sizes: Numbers
    outer: int
    strides: Numbers


@functools.lru_cache(maxsize=1024)
def _laid(q: torch.Size, v: torch.Size, q_stride: Steps, k_stride: Steps, v_stride: Steps, bias: Steps | None,
          bias_stride: Steps | None, share: Steps | None, fixed: Steps | None, factor: Steps | None,
          order: Steps | None) -> Laid:
    *outer, N, D = q
    M, E = v[-2:]
    last = len(q) - 1
    order = order or (*range(last - 2), last - 1, last - 2, last)
    memory, axes = tuple([*outer, N, E][at] for at in order), tuple(order.index(at) for at in range(last + 1))
    answer = torch.empty(memory, device="meta").permute(axes)
    none = (0,) * (last + 1)
    strides = [q_stride, k_stride, v_stride, none, share or none, fixed or none, factor or none,
               answer.stride()]
    if bias is not None and bias_stride is not None:
        count = bias[0]
        if len(bias) == len(q) and 1 < count < q[0]:        # the first axis in two: times that it returns, and the bias
            strides = [(count * by[0], *by) for by in strides]
            outer[:1] = [q[0] // count, count]
        strides[3] = torch.empty_strided(bias, bias_stride, device="meta").expand(*outer, N, M).stride()
    steps = [by for each in strides for by in each]
    return Laid(memory, axes, numbers([N, M, D, E, *outer]), len(outer), numbers(steps))


def _paired(x: Tensor) -> Tensor:
    """Laid out so that numbers of a row, or those of a column, lie side by side."""
    return x if x.stride(-1) == 1 and x.stride(-2) % 2 == 0 or x.stride(-2) == 1 else x.contiguous()


def _values(v: Tensor) -> Tensor:
    """Laid out so that numbers of a row lie side by side, or pairs of them in a column."""
    turned = v.stride(-2) == 1 and v.stride(-1) % 2 == 0 and v.shape[-2] % 2 == 0
    return v if v.stride(-1) == 1 or turned else v.contiguous()
