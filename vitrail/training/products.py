"""Linear layers in training, where torch's library for products of float32 leaves half of the processor idle.

That library is MKL, which uses AVX-512 on its maker's processors only. oneDNN, which comes with torch too, uses it on
all; torch calls it for convolutions, and a linear layer is a convolution of one place. Numbers differ by rounding.
"""
import platform
import re
from functools import cache
from types import TracebackType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.core.processor import processor

ZEN_5 = 26
WORTH = 1 << 24     # multiply-adds: of fewer, what surrounds a convolution takes longer than it gains


class WideLinear(nn.Linear):
    """A linear layer whose large products, also those of the backward pass, are convolutions."""

    def forward(self, x: Tensor) -> Tensor:                                 # (*B, in) -> (*B, out)
        if (x.dtype != torch.float32 or x.device.type != "cpu" or x.numel() * self.out_features < WORTH
                or torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling()):
            return super().forward(x)
        places = x.reshape(1, -1, 1, x.shape[-1]).permute(0, 3, 1, 2)       # (1, in, places, 1), channels last
        y = F.conv2d(places, self.weight[:, :, None, None], self.bias)      # (1, out, places, 1), channels last
        return y.permute(0, 2, 3, 1).reshape(*x.shape[:-1], -1)


class Widened:
    """Within: every plain linear layer below `module` is a `WideLinear`, where that is faster and `wanted`.

    A layer changes its class and nothing else, so that its weights, hooks, and what holds it stay as they are; what a
    backward pass computes again (checkpointing) is computed as before, which a mode of torch's would not see to.
    """

    def __init__(self, module: nn.Module, *, wanted: bool = True):
        self.layers = [m for m in module.modules() if type(m) is nn.Linear] if wanted and wider() else []

    def __enter__(self) -> None:
        for layer in self.layers:
            layer.__class__ = WideLinear

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        for layer in self.layers:
            layer.__class__ = nn.Linear


@cache
def wider() -> bool:
    """Whether oneDNN's registers are twice as wide as MKL's here: on AMD's processors since Zen 5, which compute 512
    bits at once. Zen 4 has AVX-512 too, and takes twice as long for it."""
    return (torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()
            and torch.backends.cpu.get_cpu_capability() == "AVX512" and _family() >= ZEN_5)


def _family() -> int:
    """AMD's number for a generation of its processors; 0 for other makers'."""
    if processor("vendor_id") == "AuthenticAMD":
        return int(processor("cpu family"))
    found = re.search(r"Family (\d+) .*AuthenticAMD", platform.processor())         # as Windows tells it
    return int(found[1]) if found else 0
