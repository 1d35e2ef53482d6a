"""Local relations in torchvision's ResNet: the networks were not released, so the layers here are the paper's
equations, written with torch's `unfold` at the places that a stride leaves, apart from ours.
"""
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.parity.case import Case
from vitrail.core.torchvision_guard import import_torchvision

FEW = (1, 2, 2, 1)


class Relations(nn.Module):
    """Section 3: y_i = Σ_j softmax_j(-(q_i - k_j)² + g(j - i)) x_j over 7 x 7 places, none beyond the edge."""

    def __init__(self, dim: int, stride: int, window: int = 7):
        super().__init__()
        self.stride, self.window, self.groups = stride, window, dim // math.gcd(dim, 8)
        self.qk, self.out = nn.Conv2d(dim, 2 * self.groups, 1), nn.Conv2d(dim, dim, 1)
        self.prior = nn.ModuleDict({"fc1": nn.Linear(2, 16), "fc2": nn.Linear(16, self.groups)})

    def around(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, K², L)"""
        K = self.window
        return F.unfold(x, K, padding=K // 2, stride=self.stride).unflatten(1, (x.shape[1], K * K))

    def forward(self, x: Tensor) -> Tensor:
        q, k = self.qk(x).chunk(2, 1)
        q = q[:, :, ::self.stride, ::self.stride]
        line = torch.linspace(-1, 1, self.window)
        offsets = torch.stack([t.flatten() for t in torch.meshgrid(line, line, indexing="ij")], 1)
        prior = self.prior["fc2"](F.relu(self.prior["fc1"](offsets))).T                 # (G, K²)
        scores = -(q.flatten(2)[:, :, None] - self.around(k)) ** 2 + prior[None, :, :, None]
        inside = self.around(torch.ones_like(x[:1, :1])) > 0
        weights = scores.masked_fill(~inside, -math.inf).softmax(2)
        each = weights.repeat_interleave(x.shape[1] // self.groups, 1)
        return self.out((each * self.around(x)).sum(2).unflatten(-1, q.shape[2:]))


def _reference() -> nn.Module:
    import_torchvision()
    from torchvision.models.resnet import Bottleneck, ResNet
    model: Any = ResNet(Bottleneck, list(FEW))
    model.conv1 = nn.Sequential(nn.Conv2d(3, 64, 1, bias=False), Relations(64, 2))
    for i, layer in enumerate((model.layer1, model.layer2, model.layer3, model.layer4)):
        dim = 100 * 2 ** i
        for j, block in enumerate(layer):
            block.conv1 = nn.Conv2d(block.conv1.in_channels, dim, 1, bias=False)
            block.conv2 = Relations(dim, 2 if i and not j else 1)
            block.conv3 = nn.Conv2d(dim, block.conv3.out_channels, 1, bias=False)
            block.bn1, block.bn2 = nn.BatchNorm2d(dim), nn.BatchNorm2d(dim)
    return model


def _case(depth: int, *sizes: tuple[int, int]) -> Case:
    return Case(name=f"lrnet_{depth}", reference=lambda height, width: _reference(), sizes=sizes, keys="torchvision",
                changes={"depths": FEW})


CASES = [_case(26, (224, 224), (64, 96), (61, 35)), _case(50, (64, 64)), _case(101, (64, 64))]
