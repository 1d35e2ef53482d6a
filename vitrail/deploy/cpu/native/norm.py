"""Layer norm, and rounding to bytes, by native kernels."""
import functools

import torch
from torch import Tensor
from torch.nn.functional import layer_norm

from vitrail.deploy.cpu.native.build import call, has

BOUNDS = {torch.float32: 1e-5, torch.bfloat16: 4e-2}    # of what is tried at the first use
Step = tuple[float, int]                                # scale and zero: x is about scale * (q - zero), q from 0 to 255


@functools.cache
def available(dtype: torch.dtype) -> bool:
    """Whether there are kernels for such numbers here, and they answer like torch."""
    if not has("norm", dtype):
        return False
    x = torch.randn(7, 37, generator=torch.Generator().manual_seed(0)).to(dtype)
    weight, bias = torch.linspace(-1, 1, 37), torch.linspace(1, 2, 37)
    expected = layer_norm(x.double(), (37,), weight.double(), bias.double())
    whole = (x.double() / 0.0125 + 100).round().clamp(0, 255)
    return bool((norm(x, weight, bias, 1e-5) - expected).abs().max() <= BOUNDS[dtype]) and \
        bool(((rounded(x, 0.0125, 100) - whole).abs() <= 1).all())


def norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, epsilon: float, step: Step | None = None) -> Tensor:
    """Layer norm of x (..., C) over its channels, with a weight (C,) and a bias (C,) in float32; rounded to uint8 where
    a step is given."""
    x = x.contiguous()
    y = torch.empty_like(x, dtype=torch.uint8 if step else x.dtype)
    channels = x.shape[-1]
    call("norm", x.dtype, x, y, x.numel() // channels, channels, weight, bias, epsilon, *(step or (0.0, 0)))
    return y


def rounded(x: Tensor, scale: float, zero: int) -> Tensor:
    """round(x / scale) + zero, from 0 to 255, as uint8."""
    y = torch.empty_like(x, dtype=torch.uint8)
    if y.stride() != x.stride():                        # x lies with gaps
        x, y = x.contiguous(), y.contiguous()
    call("bytes", x.dtype, x, y, x.numel(), scale, zero)
    return y
