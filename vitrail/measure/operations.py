"""How many multiply-adds a call makes, counted while it runs."""
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode


def multiply_adds(call: Callable[[], object]) -> int:
    """Those of convolutions, matrix products, attention and weighted sums of rows; of no element-wise product, norm,
    activation or sum."""
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=_MORE) as counter:
        call()
    return int(counter.get_total_flops()) // 2


def _attention(q: Sequence[int], k: Sequence[int], v: Sequence[int], *args: Any, **named: Any) -> int:
    """q kᵀ and its product with v: shapes (B, H, N, D), (B, H, M, D), (B, H, M, E)."""
    return 2 * math.prod(q[:-1]) * k[-2] * (q[-1] + v[-1])


def _rows(table: Sequence[int], at: Sequence[int], *args: Any, **named: Any) -> int:
    """The weighted sum of as many rows as there are indices."""
    return 2 * math.prod(at) * table[-1]


# the counter knows the fused kernels of CUDA only
_MORE: Any = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
              torch.ops.aten._embedding_bag: _rows, torch.ops.aten._embedding_bag_forward_only: _rows}
