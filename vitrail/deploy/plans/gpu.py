"""A plan for a CUDA GPU: the model compiled, and its kernels recorded once as a CUDA graph that is played again."""
import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

HOW: dict[str, Any] = {"mode": "reduce-overhead", "fullgraph": True, "dynamic": False}


def there(image: Tensor) -> bool:
    """Whether an image lies on such a GPU."""
    return image.is_cuda


def compiled(model: nn.Module, image: Tensor, precision: str) -> Callable[[Tensor], Tensor]:
    """A plan for images of this shape, in fp32 or bf16; attention is torch's fused call in both. Raises RuntimeError,
    which the errors of torch.compile are, where the model cannot be compiled."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    run = torch.compile(model if dtype == torch.float32 else copy.deepcopy(model).to(dtype), **HOW)

    def plan(image: Tensor) -> Tensor:
        found: Tensor = run(image.to(dtype))
        return found.float().clone()                    # the next call writes where this one answered

    with torch.inference_mode():
        for _ in range(3):                              # compiles, warms up, records
            plan(image)
    return plan
