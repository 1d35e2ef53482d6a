"""Stand-alone attention in torchvision's ResNet: no code was released, so the layers here are the paper's equations,
written with torch's `unfold`, apart from ours. tests/attention compares the layer with timm's halo attention.
"""
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.parity.case import Case
from vitrail.core.torchvision_guard import import_torchvision

FEW = (1, 2, 2, 1)


class Neighbours(nn.Module):
    """Equation 3: y = Σ softmax(q · k + q · [r_row; r_column]) v over 7 x 7 places, zeros beyond the edge."""

    def __init__(self, dim: int, heads: int = 8, window: int = 7):
        super().__init__()
        self.heads, self.window = heads, window
        self.qkv = nn.Conv2d(dim, 3 * dim, 1, bias=False)
        self.rows, self.columns = (nn.Parameter(torch.zeros(window, heads, dim // heads // 2)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        (b, _, h, w), K = x.shape, self.window
        q, k, v = self.qkv(x).chunk(3, 1)
        q = q.reshape(b, self.heads, -1, 1, h * w)
        k, v = (F.unfold(t, K, padding=K // 2).reshape(b, self.heads, -1, K * K, h * w) for t in (k, v))
        r = torch.cat([self.rows[:, None].expand(K, K, -1, -1), self.columns[None].expand(K, K, -1, -1)], -1)
        r = r.permute(2, 3, 0, 1).flatten(2)[None, ..., None]                       # (1, heads, D, K², 1)
        weights = (q * (k + r)).sum(2, keepdim=True).softmax(3)
        return (weights * v).sum(3).reshape(b, -1, h, w)


class Blocks(nn.Module):
    """Section 3.2: attention within 4 x 4 pixels, values by a mixture of four matrices for each pixel of a block."""

    def __init__(self, dim: int = 64, heads: int = 4):
        super().__init__()
        self.heads = heads
        self.qk, self.values = nn.Linear(3, 2 * dim, bias=False), nn.Linear(3, 4 * dim, bias=False)
        self.rows, self.columns, self.mixtures = (nn.Parameter(torch.zeros(4, dim // heads)) for _ in range(3))

    def forward(self, image: Tensor) -> Tensor:
        height, width = image.shape[2:]
        image = F.pad(image, (0, -width % 4, 0, -height % 4))
        out = image.new_zeros(image.shape[0], self.qk.out_features // 2, *image.shape[2:])
        at = [(a, b) for a in range(4) for b in range(4)]
        p = torch.stack([torch.stack([(self.rows[a] + self.columns[b]) @ nu for nu in self.mixtures]).softmax(0)
                         for a, b in at])
        for y in range(0, image.shape[2], 4):
            for x in range(0, image.shape[3], 4):
                pixels = torch.stack([image[:, :, y + a, x + b] for a, b in at], 1)
                q, k = self.qk(pixels).chunk(2, -1)
                v = sum(p[:, m, None] * part for m, part in enumerate(self.values(pixels).chunk(4, -1)))
                for head in torch.arange(q.shape[-1]).chunk(self.heads):
                    found = (q[..., head] @ k[..., head].mT).softmax(-1) @ v[..., head]
                    out[:, head, y:y + 4, x:x + 4] = found.mT.unflatten(-1, (4, 4))
        return out[..., :height, :width]


def _reference(full: bool) -> nn.Module:
    import_torchvision()
    from torchvision.models.resnet import Bottleneck, ResNet
    model: Any = ResNet(Bottleneck, list(FEW))
    for i, layer in enumerate((model.layer1, model.layer2, model.layer3, model.layer4)):
        for j, block in enumerate(layer):
            pool = nn.AvgPool2d(2, 2, ceil_mode=True) if i and not j else nn.Identity()
            block.conv2 = nn.Sequential(Neighbours(64 << i), pool)
    if full:
        model.conv1, model.relu, model.maxpool = Blocks(), nn.Identity(), nn.MaxPool2d(4, 4, ceil_mode=True)
    return model


def _case(depth: int, *sizes: tuple[int, int], full: bool = False) -> Case:
    return Case(name=f"sasa_resnet_{depth}{'_full' if full else ''}", reference=lambda height, width: _reference(full),
                sizes=sizes, keys="torchvision", changes={"depths": FEW})


CASES = [
    _case(26, (224, 224), (96, 160), (125, 67)), _case(38, (64, 64)), _case(50, (64, 64)),
    _case(26, (64, 96), (61, 35), full=True), _case(38, (64, 64), full=True), _case(50, (64, 64), full=True),
]
