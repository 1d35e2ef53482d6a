"""SAGAN's discriminator by its equations, on maps (B, C, H, W), with torch's convolutions and spectral normalisation.

The official code is for TensorFlow 1; its scopes name the layers here. Noise in the vectors of a power iteration is
nobody's singular vector, and would blow a network up: the reference first takes steps towards its own, and hands the
vectors that it found to ours with its other tensors.
"""
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from tests.parity.case import Case


def conv(channels: int, dim: int, size: int) -> nn.Module:
    return spectral_norm(nn.Conv2d(channels, dim, size, padding=size // 2))


def halve(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 2, ceil_mode=True)


class Layers(nn.Module):
    def __init__(self, channels: int, dim: int, projects: bool = True):
        super().__init__()
        self.sn_conv1, self.sn_conv2 = conv(channels, dim, 3), conv(dim, dim, 3)
        if projects:
            self.sn_conv3 = conv(channels, dim, 1)


class NonLocal(nn.Module):
    """x + σ W softmax(θ(x) φ(x)ᵀ) g(x), φ and g after a maximum over 2 x 2 places."""

    def __init__(self, dim: int):
        super().__init__()
        for name, (channels, out) in {"theta": (dim, dim // 8), "phi": (dim, dim // 8), "g": (dim, dim // 2),
                                      "attn": (dim // 2, dim)}.items():
            setattr(self, f"sn_conv_{name}", spectral_norm(nn.Linear(channels, out, bias=False)))
        self.sigma_ratio = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        def matrix(name: str) -> Tensor:
            return self.get_submodule(f"sn_conv_{name}").weight                         # type: ignore[return-value]
        theta, phi, g = (torch.einsum("dc,bchw->bdhw", matrix(n), x) for n in ("theta", "phi", "g"))
        phi, g = (F.max_pool2d(t, 2).flatten(2) for t in (phi, g))
        weights = torch.einsum("bdn,bdm->bnm", theta.flatten(2), phi).softmax(-1)
        found = torch.einsum("cd,bdm,bnm->bcn", matrix("attn"), g, weights)
        return x + self.sigma_ratio * found.view_as(x)


class Official(nn.Module):
    def __init__(self, attend: int, dim: int = 64):
        super().__init__()
        self.attend = attend
        self.d_optimized_block1 = Layers(3, dim)
        for i in range(1, 5):
            setattr(self, f"d_block{i + 1}", Layers(dim << i - 1, dim << i))
        self.d_block6, self.d_non_local = Layers(16 * dim, 16 * dim, False), NonLocal(dim << attend)
        self.head = nn.Linear(16 * dim, 1000)

    @torch.no_grad()
    def settle(self) -> None:
        self.train()
        for part in self.modules():
            if hasattr(part, "parametrizations"):
                for _ in range(10):
                    assert part.weight is not None      # which takes a step
                # at a norm of one the noise in the biases would drown the image
                part.get_buffer("parametrizations.weight.0._u").mul_(0.4)
        self.eval()

    def forward(self, image: Tensor) -> Tensor:
        d: Any = self.d_optimized_block1
        x = halve(d.sn_conv2(d.sn_conv1(image).relu())) + d.sn_conv3(halve(image))
        for i in range(1, 6):
            x = self.d_non_local(x) if i - 1 == self.attend else x
            d = self.get_submodule(f"d_block{i + 1}")
            y = d.sn_conv2(d.sn_conv1(x.relu()).relu())
            x = halve(d.sn_conv3(x)) + halve(y) if i < 5 else x + y
        return self.head(x.relu().sum((2, 3)))


def settled(model: nn.Module, image: Tensor) -> Tensor:
    if isinstance(model, Official):
        model.settle()
    out: Tensor = model(image)
    return out


def _case(name: str, attend: int, *sizes: tuple[int, int]) -> Case:
    return Case(name=name, reference=lambda height, width: Official(attend), sizes=sizes, keys="official",
                output=settled)


CASES = [_case("sagan_discriminator", 1, (128, 128), (64, 96), (61, 35)),
         _case("sagan_discriminator_feat64", 0, (64, 64))]
