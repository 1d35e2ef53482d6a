"""Folds for checkpoints of Flax: kernels are (in, out), attention kernels carry their heads, convolutions are HWIO."""
from typing import Any

from vitrail.core.keys import Fold

Tensor = Any

TRANSPOSE = Fold(lambda kernel: kernel.T, lambda weight: weight.T)
CONV = Fold(lambda kernel: kernel.permute(3, 2, 0, 1), lambda weight: weight.permute(2, 3, 1, 0))


def attention_in(heads: int, parts: int) -> tuple[Fold, Fold]:
    """(weight, bias) of `parts` kernels (C, H, D) and biases (H, D), packed as (parts · C, C) and (parts · C)."""
    def weight(*kernels: Tensor) -> Tensor:
        import torch
        return torch.cat([k.flatten(1).T for k in kernels])

    def bias(*biases: Tensor) -> Tensor:
        import torch
        return torch.cat([b.flatten() for b in biases])

    def kernels(w: Tensor) -> Any:
        out = tuple(p.T.unflatten(1, (heads, -1)) for p in w.chunk(parts))
        return out if parts > 1 else out[0]

    def biases(b: Tensor) -> Any:
        out = tuple(p.unflatten(0, (heads, -1)) for p in b.chunk(parts))
        return out if parts > 1 else out[0]

    return Fold(weight, kernels), Fold(bias, biases)


def attention_out(heads: int) -> Fold:
    """A kernel (H, D, C) as a weight (C, H · D)."""
    return Fold(lambda kernel: kernel.flatten(0, 1).T, lambda weight: weight.T.unflatten(0, (heads, -1)))
