"""A plan for a CUDA GPU: the model compiled, and its kernels recorded once as a CUDA graph that is played again."""
import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

HOW: dict[str, Any] = {"mode": "reduce-overhead", "fullgraph": True, "dynamic": False}


def there(inputs: Sequence[Tensor]) -> bool:
    """Whether inputs lie on such a GPU."""
    return inputs[0].is_cuda


def compiled(model: nn.Module, example: Sequence[Tensor], precision: str) -> Callable[..., Any]:
    """A plan for inputs of these shapes, in fp32 or bf16; attention is torch's fused call in both. Raises RuntimeError,
    which the errors of torch.compile are, where the model cannot be compiled."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    run = torch.compile(model if dtype == torch.float32 else copy.deepcopy(model).to(dtype), **HOW)

    def plan(*inputs: Tensor) -> Any:
        answer = run(*(leaf.to(dtype) if leaf.is_floating_point() else leaf for leaf in inputs))
        # the next call writes where this one answered
        return tree_map(lambda leaf: (leaf.float() if leaf.is_floating_point() else leaf).clone(), answer)

    with torch.inference_mode():
        for _ in range(3):                              # compiles, warms up, records
            plan(*example)
    return plan
