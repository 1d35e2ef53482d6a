"""A moving average of the weights, kept in float32."""
import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from vitrail.training.tensors import live, local


class EMA:
    """avg = d · avg + (1 - d) · weights after each step; d = min(decay, (1 + t) / (10 + t)) at the t-th update.

    Every parameter and lasting buffer of floating-point numbers is averaged. `tensors` are the live averages.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.source = {n: t for n, t in live(model).items() if t.is_floating_point()}
        self.tensors: dict[str, Tensor] = {n: t.detach().clone().to(torch.float32) for n, t in self.source.items()}

    @torch.no_grad()
    def update(self, t: int) -> None:
        """After update number `t`, counted from 1."""
        d = min(self.decay, (1 + t) / (10 + t))
        averages = [local(a) for a in self.tensors.values()]
        torch._foreach_lerp_(averages, [local(s.detach()).to(torch.float32) for s in self.source.values()], 1 - d)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Within: the network has the average's weights; after: its own again, to the bit."""
        with torch.no_grad():
            own = {n: local(t.detach()).clone() for n, t in self.source.items()}
            for n, t in self.source.items():
                local(t.detach()).copy_(local(self.tensors[n]))
            try:
                yield
            finally:
                for n, t in self.source.items():
                    local(t.detach()).copy_(own[n])
