"""Seeded noise for every tensor of a network, from nothing but the tensor's name and shape.

Two networks filled by the same names compute the same function if and only if they are the same network, so
comparing their outputs proves an implementation without any released weights. A golden file stores only names,
shapes and outputs: the weights are made again from here. The fill is fixed for good. For a tensor `name`:

- `z = numpy.random.Generator(numpy.random.PCG64(zlib.crc32(name.encode()))).standard_normal(shape)`, in float64;
- a name that ends in `running_var`: `1 + 0.1 |z|`;
- two or more dimensions: `z / sqrt(fan_in)`, with fan_in the product of all dimensions but the first;
- one dimension and a name like `*.weight` or `*gamma*`: `1 + 0.1 z`;
- any other tensor of one dimension or none: `0.1 z`;
- the result is cast to float32 at the end; tensors of integers and booleans stay as the reference made them.

*name* is always the reference's own name, as its `state_dict()` says it.
"""
import zlib
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from math import prod, sqrt

import numpy as np
import torch
from torch import Tensor, nn

from vitrail.core.errors import VitrailError


def noise(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The noise for every tensor of a state dict, float32 on the CPU, under the same names and in the same order.

    Only names, shapes and kinds are read, so a state on the meta device will do where it holds no integers.
    Raises VitrailError on a tensor of complex numbers, for which the fill has no rule.
    """
    return {name: _fill(name, t) if t.is_floating_point() else _kept(name, t) for name, t in state.items()}


@torch.no_grad()
def fill_(module: nn.Module, *, keep: Iterable[str] = ()) -> None:
    """Fills a network in place: its parameters and the buffers that its state dict holds, by their own names.

    keep: patterns (`*.attn_mask`) of tensors that are no weights although the state dict holds them.
    A tensor that is shared under several names takes the noise of the first.
    """
    saved, kept = module.state_dict().keys(), tuple(keep)
    for name, t in (*module.named_parameters(), *module.named_buffers()):
        if name in saved and t.is_floating_point() and not any(fnmatchcase(name, k) for k in kept):
            t.copy_(_fill(name, t))


def _fill(name: str, like: Tensor) -> Tensor:
    generator = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
    z = np.asarray(generator.standard_normal(tuple(like.shape)))
    if name.endswith("running_var"):
        z = 1 + 0.1 * np.abs(z)
    elif like.ndim >= 2:
        z = z / sqrt(max(1, prod(like.shape[1:])))
    elif like.ndim == 1 and (name.endswith(".weight") or "gamma" in name):
        z = 1 + 0.1 * z
    else:
        z = 0.1 * z
    return torch.from_numpy(np.asarray(z, dtype=np.float32))


def _kept(name: str, t: Tensor) -> Tensor:
    if t.is_complex():
        raise VitrailError(f"the noise fill has no rule for complex numbers, and {name!r} holds them")
    return t.clone()
