"""The machine's own measure of arithmetic: the best product of matrices that a library reaches here."""
from collections.abc import Callable

import torch
import torch.nn.functional as F

ROWS, INNER, COLUMNS = 3072, 1536, 1920         # large enough that nothing but arithmetic sets the pace
MULTIPLY_ADDS = ROWS * INNER * COLUMNS


def packed_product(dtype: torch.dtype) -> Callable[[], object]:
    """A product on the processor with a matrix that oneDNN has packed beforehand, as for an inference's weights; where
    this build of torch has no such product, the one of a linear layer."""
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(n, INNER, generator=generator).to(dtype) for n in (ROWS, COLUMNS))
    packed = torch.ops.mkldnn
    if torch.backends.mkldnn.is_available() and hasattr(packed, "_linear_pointwise"):
        kept = packed._reorder_linear_weight(weight, ROWS)
        return lambda: packed._linear_pointwise(x, kept, None, "none", [], "")
    return lambda: F.linear(x, weight)
