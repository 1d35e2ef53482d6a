"""The machine's own measure of arithmetic: the best product of matrices that a library reaches here."""
from collections.abc import Callable

import torch
import torch.nn.functional as F

ROWS, INNER, COLUMNS = 3072, 1536, 1920         # large enough that nothing but arithmetic sets the pace
MULTIPLY_ADDS = ROWS * INNER * COLUMNS
STEPS = 26              # of a unit, in int8: of normal numbers, none lies beyond the last


def packed_product(dtype: torch.dtype) -> Callable[[], object]:
    """A product on the processor with a matrix that oneDNN has packed beforehand, as for an inference's weights; where
    this build of torch has no such product, the one of a linear layer. int8 is uint8 by int8, the answer in bfloat16.
    """
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(n, INNER, generator=generator) for n in (ROWS, COLUMNS))
    if dtype == torch.int8:
        return _of_int8(x, weight)
    x, weight = x.to(dtype), weight.to(dtype)
    packed = torch.ops.mkldnn
    if torch.backends.mkldnn.is_available() and hasattr(packed, "_linear_pointwise"):
        try:
            kept = packed._reorder_linear_weight(weight, ROWS)
        except RuntimeError:                                # a processor whose products do not take this type
            return lambda: F.linear(x, weight)
        return lambda: packed._linear_pointwise(x, kept, None, "none", [], "")
    return lambda: F.linear(x, weight)


def _of_int8(x: torch.Tensor, weight: torch.Tensor) -> Callable[[], object]:
    packed, scales = torch.ops.onednn, torch.full((COLUMNS,), 1 / STEPS)
    kept = packed.qlinear_prepack((STEPS * weight).round().clamp(-127, 127).to(torch.int8), [ROWS, INNER])
    zeros, low = torch.zeros(COLUMNS, dtype=torch.int64), (STEPS * x + 128).round().clamp(0, 255).to(torch.uint8)
    return lambda: packed.qlinear_pointwise(low, 1 / STEPS, 128, kept, scales, zeros, None, 1.0, 0, torch.bfloat16,
                                            "none", [], "")
