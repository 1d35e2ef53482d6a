"""Linear layers and convolutions by the native kernel."""
import functools

import torch
from torch import Tensor
from torch.nn.functional import linear as plain

from vitrail.deploy.cpu.native.build import call, has
from vitrail.deploy.cpu.native.norm import Step

LANES, WIDEST = 16, 4                       # of a vector, and vectors of a panel, as in linear.cpp
CELL = {torch.float32: 1, torch.bfloat16: 2, torch.uint8: 4}        # numbers that are multiplied at once
ACTIVATIONS = ("none", "relu", "gelu", "swish")
ANSWERS = (torch.float32, torch.bfloat16, torch.uint8)
BOUNDS = {torch.float32: 1e-5, torch.bfloat16: 4e-2, torch.uint8: 1e-5}     # of what is tried at the first use


@functools.cache
def available(dtype: torch.dtype) -> bool:
    """Whether there is a kernel for rows of such numbers here, and it answers like torch's: for uint8 with weights in
    int8. Where the processor multiplies short numbers in tiles (AMX), oneDNN, which uses them, is left to do it."""
    if not has("linear", dtype) or dtype != torch.float32 and tiles():
        return False
    drawn = torch.Generator().manual_seed(0)
    x, weight = (torch.randint(-9, 10, (rows, 40), generator=drawn) / 8 for rows in (37, 90))
    low = torch.int8 if dtype == torch.uint8 else dtype
    if dtype == torch.uint8:
        x, weight = (x * 8 + 9), weight * 8
    expected = plain(x.double(), weight.double())
    scale = torch.ones(90) if dtype == torch.uint8 else None
    found = linear(x.to(dtype), packed(weight.to(low)), 90, scale=scale,
                   dtype=torch.float32 if dtype == torch.uint8 else dtype)
    return float(((found - expected) / expected.abs().max()).abs().max()) <= BOUNDS[dtype]      # nan is not


def tiles() -> bool:
    """Whether this processor has AMX."""
    return bool(getattr(torch.cpu, "_is_amx_tile_supported", bool)())


def fits(width: int, dtype: torch.dtype) -> bool:
    """Whether rows of so many numbers, or parts of rows behind one index, can be multiplied."""
    return width % CELL[dtype] == 0 and available(dtype)


def packed(weight: Tensor) -> Tensor:
    """A weight (N, ..., K) as the kernel reads it: in panels of up to 64 rows, in which K is outermost; then zeros, as
    many as K. In int8 it is for rows of uint8."""
    N, K = len(weight), weight.shape[-1]
    cell = 4 // weight.element_size()
    vectors = -(-N // LANES)
    panels = -(-vectors // WIDEST)
    rows = weight.flatten(1)
    full = torch.cat([rows, rows.new_zeros(vectors * LANES - N, rows.shape[1])])
    ends = [panel * vectors // panels * LANES for panel in range(panels + 1)]
    parts = [full[start:end].reshape(end - start, -1, cell).transpose(0, 1).reshape(-1)
             for start, end in zip(ends, ends[1:], strict=False)]
    return torch.cat([*parts, rows.new_zeros(K)])


def linear(x: Tensor, weight: Tensor, columns: int, bias: Tensor | None = None, activation: str = "none",
           residual: Tensor | None = None, *, scale: Tensor | None = None, dtype: torch.dtype | None = None,
           step: Step | None = None, index: Tensor | None = None, image: int = 0,
           shape: tuple[int, ...] | None = None) -> Tensor:
    """act(scale x W^T + bias) + residual, (..., N), for x (..., K) of a type that is `available`, and a weight
    `packed`; scale and bias (N,) are in float32, and the residual (..., N) is of the answer's type.

    dtype: of the answer, where x is uint8. step: with it the answer is rounded to uint8.
    index: (R, taps) of int32: each row of the answer reads so many rows of x side by side, with K numbers in each, by
    their numbers among all; -1 reads zeros. It returns after R rows for rows that are `image` further.
    shape: of the answer, where there is an index.
    """
    width = x.shape[-1]
    dtype = torch.uint8 if step else dtype or x.dtype
    table = x.reshape(-1, width)
    if width > 1 and table.stride(1) != 1:
        table = table.contiguous()
    out = torch.empty(shape or (*x.shape[:-1], columns), dtype=dtype)
    if residual is not None:
        residual = residual.contiguous()
    rows = out.numel() // columns
    period, taps = (rows, 1) if index is None else index.shape
    step_x, zeros = table.stride(0) * x.element_size(), weight[len(weight) - width:]
    call("linear", x.dtype, table, step_x, index, taps, period, image, weight, scale, bias, residual, out, rows,
         columns, width // CELL[x.dtype], ACTIVATIONS.index(activation), zeros, ANSWERS.index(dtype),
         *(step or (0.0, 0)))
    return out
