"""Cross-covariance attention: channels attend to channels, so that the cost is linear in the tokens.

El-Nouby et al., NeurIPS 2021, arXiv:2106.09681.
"""
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.core.card import Idea, Paper
from vitrail.core.mechanism import LINEAR, Mechanism, Takes
from vitrail.nn import Attend, Channels, Merge, Split

PAPER = Paper(title="XCiT: Cross-Covariance Image Transformers", arxiv="2106.09681", authors="El-Nouby et al.",
              year=2021, venue="NeurIPS", code="facebookresearch/xcit", license="Apache-2.0",
              ideas=(Idea("attention.self_attention", "section 3.1", "attention, transposed"),))


class CrossCovariance(nn.Module):
    """v softmax(k̂ᵀ q̂ / τ), q̂ and k̂ of unit length over the tokens: a D x D map a head (XCA, equation 2)."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.groups = Channels()
        self.qkv, self.attend, self.out = Split(dim, heads, 3), Attend(), Merge(dim)
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))        # 1 / τ

    def forward(self, x: Tensor) -> Tensor:                             # (B, h, w, C)
        q, k, v = (t.mT for t in self.qkv(x.flatten(1, 2)))             # (B, H, D, N): channels take the tokens' place
        q, k = F.normalize(q, dim=-1) * self.temperature, F.normalize(k, dim=-1)
        return self.out(self.attend(q, k, v, scale=1.0).mT).view_as(x)  # (B, h, w, C)


cross_covariance = Mechanism(
    build=CrossCovariance, mixer=lambda dim, heads, grid: CrossCovariance(dim, heads), takes=Takes.MAP, time=LINEAR,
    memory=LINEAR, where="section 3.2", shows="the weights between channels, (B, heads, D, D)")
