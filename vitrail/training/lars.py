"""LARS: each tensor's step is as long as the tensor is large (You et al., arXiv:1708.03888)."""
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


class LARS(torch.optim.Optimizer):
    """v = m v + (g + λ w) η ‖w‖ / ‖g + λ w‖; w = w - lr v (algorithm 1).

    As contrastive learning uses it (SimCLR, arXiv:2002.05709; MoCo v3, arXiv:2104.02057): tensors of one dimension
    (biases, norms, gains) take the plain step of SGD, without decay. trust: η. What a parameter keeps is v, its
    `momentum_buffer`, as torch's SGD calls it.
    """

    def __init__(self, params: Iterable[Any], *, lr: float, momentum: float = 0.9, weight_decay: float = 0.0,
                 trust: float = 1e-3):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust": trust})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:     # type: ignore[override]
        """One step. closure: computes the loss again, as torch's optimizers take it."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, group)
        return loss

    def _move(self, parameter: Tensor, group: dict[str, Any]) -> None:
        direction = parameter.grad
        assert direction is not None
        if parameter.ndim > 1:
            direction = direction.add(parameter, alpha=group["weight_decay"])
            size, length = parameter.norm(), direction.norm()
            rate = torch.where((size > 0) & (length > 0), group["trust"] * size / length, torch.ones_like(size))
            direction = direction * rate
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        state["momentum_buffer"].mul_(group["momentum"]).add_(direction)
        parameter.add_(state["momentum_buffer"], alpha=-group["lr"])
