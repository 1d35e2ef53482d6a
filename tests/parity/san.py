"""SAN against its official network, recorded. Its CUDA kernels are replaced by the equations they state.

The published pooling drops the last row of an odd map, where ours lets it stand: at such a size the recorded network
pools so as well. Mirroring is the framework's there, which takes maps of four places a side at least.

A patchwise block multiplies two projections of its input and divides by nothing, so under noise, where norms keep
nothing in bounds, it squares the size of the map; after ten blocks only infinities would be compared. These networks
are recorded shallow.
"""
import importlib
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from tests.parity.case import Recorded

DEPTHS: Mapping[str, tuple[int, ...]] = {
    "san10_pairwise": (2, 1, 2, 4, 1), "san15_pairwise": (3, 2, 3, 5, 2), "san19_pairwise": (3, 3, 4, 6, 3),
    "san10_patchwise": (2, 1, 1, 1, 1), "san15_patchwise": (1, 2, 1, 1, 1), "san19_patchwise": (1, 1, 2, 1, 1)}
SOURCE = "hszhao/SAN@d88b022fc3ec4920d4596f94983f0e5b1ced62c6: model/san.py"


class Kernel(nn.Module):
    """What all three of the repository's operators take; stride and dilation are 1 in all published networks."""

    def __init__(self, kernel_size: int, stride: int, padding: int, dilation: int, pad_mode: int):
        super().__init__()
        assert (stride, dilation, pad_mode) == (1, 1, 1) and padding == kernel_size // 2
        self.k = kernel_size

    def around(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, k², N), mirrored beyond the edge."""
        side = self.k // 2
        return F.unfold(F.pad(x, (side, side, side, side), mode="reflect"), self.k).unflatten(1, (x.shape[1], -1))


class Subtraction(Kernel):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(2)[:, :, None] - self.around(x)


class Subtraction2(Kernel):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x.flatten(2)[:, :, None] - self.around(y)


class Aggregation(Kernel):
    """Channel c is weighed by weight number c modulo the number of weights."""

    def forward(self, x: Tensor, weight: Tensor) -> Tensor:
        weights = weight.repeat(1, x.shape[1] // weight.shape[1], 1, 1)
        return (weights * self.around(x)).sum(2).unflatten(2, x.shape[2:])


class Wrapped(nn.Module):
    """The names that the release has: it was saved from within a wrapper of several processes."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Any:
        return self.module(x)


def _case(name: str, *sizes: tuple[int, int]) -> Recorded:
    def build(code: Path, height: int, width: int) -> nn.Module:
        kernels = ModuleType("lib.sa.modules")
        vars(kernels).update(Subtraction=Subtraction, Subtraction2=Subtraction2, Aggregation=Aggregation)
        sys.modules |= {"lib": ModuleType("lib"), "lib.sa": ModuleType("lib.sa"), "lib.sa.modules": kernels}
        sys.path.insert(0, str(code))
        official = importlib.import_module("model.san")
        model = official.san(int(name.endswith("patchwise")), DEPTHS[name], [3, 7, 7, 7, 7], 1000)
        model.pool.ceil_mode = bool(height % 32 or width % 32)
        return Wrapped(model)
    changes = {"depths": DEPTHS[name]} if name.endswith("patchwise") else {}
    return Recorded(name=name, source=SOURCE, official=build, sizes=sizes, changes=changes)


CASES = [_case(name, *((224, 224), (128, 192), (139, 101)) if name.startswith("san10") else ((128, 160),))
         for name in DEPTHS]
