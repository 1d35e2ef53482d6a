"""Re-attention: the heads' maps are mixed by a learned matrix and normalised, lest they grow alike in deep networks.

Zhou et al., 2021, arXiv:2103.11886.
"""
import torch
from torch import Tensor, nn

from vitrail.core.card import Idea, Paper
from vitrail.core.mechanism import QUADRATIC, Mechanism, Takes
from vitrail.nn import Merge, Shown, Split

PAPER = Paper(title="DeepViT: Towards Deeper Vision Transformer", arxiv="2103.11886", authors="Zhou et al.", year=2021,
              code="zhoudaquan/dvit_repo", license="MIT",
              ideas=(Idea("attention.self_attention", "section 3", "attention, whose maps it mixes"),))


class ReAttention(nn.Module):
    """gain · Norm(Θ softmax(q kᵀ / √D)) v, Θ mixing heads (equation 3), the norm over batch and maps, one gain a head.

    gain: 1 in the paper; one released size says 1/√D. In evaluation the norm's two numbers a head are put into Θ.
    (B, N, C) -> (B, N, C).
    """

    offset: Tensor

    def __init__(self, dim: int, heads: int, *, qkv_bias: bool = False, gain: float = 1.0):
        super().__init__()
        self.qkv, self.out, self.gain = Split(dim, heads, 3, bias=qkv_bias), Merge(dim), gain
        self.theta, self.norm = nn.Parameter(torch.empty(heads, heads)), nn.BatchNorm2d(heads)
        # the bias that released weights add to Θ's result: the norm takes it out again, so that none is ever learned,
        # but the running mean of such weights holds it
        self.register_buffer("offset", torch.zeros(heads))
        nn.init.kaiming_uniform_(self.theta, a=5 ** 0.5)            # the default of a convolution
        self.shown = Shown()

    def forward(self, x: Tensor) -> Tensor:                         # (B, N, C)
        q, k, v = self.qkv(x)                                       # (B, H, N, D)
        alike = ((q * q.shape[-1] ** -0.5) @ k.mT).softmax(-1)      # (B, H, N, N)
        weights = self.shown(self.mixed(alike))                     # (B, H, N, N)
        return self.out(weights @ v)                                # (B, N, C)

    def mixed(self, maps: Tensor) -> Tensor:
        """gain · Norm(Θ maps): (B, H, N, N)."""
        flat = maps.flatten(2)                                      # (B, H, L)
        norm, shift = self.norm, self.offset
        theta: Tensor = self.theta
        if not norm.training:
            assert norm.running_mean is not None and norm.running_var is not None
            gain = self.gain * norm.weight * (norm.running_var + norm.eps).rsqrt()
            theta, shift = gain[:, None] * theta, self.gain * norm.bias + gain * (shift - norm.running_mean)
        batch = theta.to(flat.dtype).expand(flat.shape[0], -1, -1)  # (B, H, H)
        mixed = torch.baddbmm(shift.to(flat.dtype)[:, None], batch, flat).view_as(maps)
        if norm.training:
            mixed = norm(mixed) if self.gain == 1 else self.gain * norm(mixed)
        return mixed


re_attention = Mechanism(
    build=ReAttention, mixer=lambda dim, heads, grid: ReAttention(dim, heads), takes=Takes.TOKENS,
    time=QUADRATIC, memory=QUADRATIC, where="section 4.2",
    shows="the weights behind the norm, which need not sum to 1 nor be positive, (B, heads, N, N)")
