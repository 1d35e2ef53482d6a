"""Depthwise convolutions by the native kernel."""
import functools

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from vitrail.deploy.cpu.native.build import call, has
from vitrail.deploy.cpu.native.linear import ACTIVATIONS
from vitrail.deploy.cpu.native.norm import Step

SIDE = 3                                                # of the filters that it has
STRIDES = (1, 2)
BOUNDS = {torch.float32: 1e-5, torch.bfloat16: 4e-2}    # of what is tried at the first use


@functools.cache
def available(dtype: torch.dtype) -> bool:
    """Whether there is a kernel for such numbers here, and it answers like torch's."""
    if not has("depthwise", dtype):
        return False
    drawn = torch.Generator().manual_seed(0)
    x, weight = torch.randn(2, 9, 11, 20, generator=drawn).to(dtype), torch.randn(20, 1, 3, 3, generator=drawn)
    expected = conv2d(x.double().permute(0, 3, 1, 2), weight.double(), padding=1, groups=20).permute(0, 2, 3, 1)
    found = depthwise(x, weight.flatten(1).T.contiguous())
    return float((found - expected).abs().max() / expected.abs().max()) <= BOUNDS[dtype]     # nan is not


def depthwise(x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str = "none",
              affine: tuple[Tensor, Tensor] | None = None, residual: Tensor | None = None, stride: int = 1,
              padding: int = 1, step: Step | None = None) -> Tensor:
    """act(x * w + bias) scale + shift + residual, (B, H', W', C), for x (B, H, W, C) of a type that is `available`.

    weight: (9, C), of filters of 3 x 3; with the bias and what is affine, scale and shift (C,), in float32.
    step: rounds the answer to uint8; there is no residual then.
    """
    B, H, W, C = x.shape
    x = x.contiguous()
    rows, columns = ((side + 2 * padding - SIDE) // stride + 1 for side in (H, W))
    out = torch.empty(B, rows, columns, C, dtype=torch.uint8 if step else x.dtype)
    if residual is not None:
        residual = residual.contiguous()
    call("depthwise", x.dtype, x, weight, bias, *(affine or (None, None)), residual, out, B, H, W, C, rows, columns,
         stride, padding, ACTIVATIONS.index(activation), *(step or (0.0, 0)))
    return out
