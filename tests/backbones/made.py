"""What tests of single papers begin with: noise, and networks in which no zero or one hides what stands behind it."""
from typing import TypeVar

import torch
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def seeded(module: M) -> M:
    """The module with noise added to every weight, in evaluation mode."""
    with torch.no_grad():
        for i, p in enumerate(module.parameters()):
            p.add_(noise(*p.shape, seed=i), alpha=0.3)
    return module.eval()
