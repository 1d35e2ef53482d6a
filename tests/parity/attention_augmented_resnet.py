"""Attention-augmented ResNets: no network was released, so the layer here is the paper's equations with gathered
offsets, apart from ours, in torchvision's ResNet. tests/attention compares the attention with timm's.
"""
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.parity.case import Case
from vitrail.core.torchvision_guard import import_torchvision

FEW, HEADS = (1, 2, 2, 1), 8


class Augmented(nn.Module):
    """Equation 2 to 4: q · (k + r_column + r_row) / √d over all places of a map, d_v of whose channels it makes."""

    def __init__(self, dim: int, stride: int, halved: bool, keys: int, values: int, grid: tuple[int, int]):
        super().__init__()
        self.split, self.stride, self.halved = [keys, keys, values], stride, halved
        self.conv = nn.Conv2d(dim, dim - values, 3, stride, 1)
        self.kqv, self.attn_out = nn.Conv2d(dim, 2 * keys + values, 1), nn.Conv2d(values, values, 1)
        self.key_rel_h, self.key_rel_w = (nn.Parameter(torch.zeros(2 * n - 1, keys // HEADS)) for n in grid)

    def forward(self, x: Tensor) -> Tensor:
        near = self.conv(x)
        for _ in range((self.stride == 2) + self.halved):
            x = F.avg_pool2d(x, 3, 2, 1, count_include_pad=False)
        h, w = x.shape[2:]
        k, q, v = (t.flatten(2).unflatten(1, (HEADS, -1)) for t in self.kqv(x).split(self.split, 1))    # (B, H, D, N)
        y, x_ = torch.arange(h).repeat_interleave(w), torch.arange(w).repeat(h)
        r = self.key_rel_h[y[None] - y[:, None] + h - 1] + self.key_rel_w[x_[None] - x_[:, None] + w - 1]   # (N, N, D)
        scores = torch.einsum("bhdn,bhdm->bhnm", q, k) + torch.einsum("bhdn,nmd->bhnm", q, r)
        far = torch.einsum("bhnm,bhdm->bhdn", (scores * q.shape[2] ** -0.5).softmax(-1), v)
        far = self.attn_out(far.flatten(1, 2).unflatten(2, (h, w)))
        if self.halved:
            far = F.interpolate(far, near.shape[2:], mode="bilinear", align_corners=False)
        return torch.cat([near, far], 1)


# keys and values of 128, 256 and 512 channels
SHARES = {1: (160, 8), 2: (160, 24), 3: (160, 48)}


def _reference(height: int, width: int) -> nn.Module:
    import_torchvision()
    from torchvision.models.resnet import Bottleneck, ResNet
    model: Any = ResNet(Bottleneck, list(FEW))
    for i, layer in ((1, model.layer2), (2, model.layer3), (3, model.layer4)):
        seen = 16 if i == 1 else 4 << i
        for j, block in enumerate(layer):
            block.conv2 = Augmented(64 << i, 1 if j else 2, i == 1, *SHARES[i], (-(-height // seen), -(-width // seen)))
    return model


def _case(depth: int, *sizes: tuple[int, int]) -> Case:
    return Case(name=f"aa_resnet_{depth}", reference=_reference, sizes=sizes, keys="torchvision",
                changes={"depths": FEW}, at=lambda height, width: {"image": (height, width)})


CASES = [_case(50, (224, 224), (128, 128), (96, 200), (125, 67)), _case(101, (125, 67)), _case(152, (64, 96))]
