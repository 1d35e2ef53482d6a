"""2-D sines: where a place lies between the edges of its own image, half of the channels for y and half for x.

Carion et al., ECCV 2020, arXiv:2005.12872, appendix A.4.
"""
import math

import torch
from torch import Tensor, nn

from vitrail.core.card import Idea, Paper
from vitrail.core.errors import ModelError
from vitrail.core.mechanism import Position
from vitrail.ops.windows import by_size
from vitrail.positions.sinusoidal import TEMPERATURE, waves

PAPER = Paper(title="End-to-End Object Detection with Transformers", arxiv="2005.12872", authors="Carion et al.",
              year=2020, venue="ECCV", code="facebookresearch/detr", license="Apache-2.0",
              builds_on=("positions.sinusoidal",),
              ideas=(Idea("positions.sinusoidal", "appendix A.4", "sines and cosines, in one dimension"),
                     Idea("image_transformer", "appendix A.4", "half of the channels for each axis")))


class Sine2d(nn.Module):
    """The code of each place of a map, which the layers add to queries and keys, never to values.

    x (B, H, W, C), of which only size, dtype and device are read -> (1, H, W, dim); with `inside` (B, H, W), true
    where a padded map shows its image -> (B, H, W, dim). Rows and columns are counted from 1 within the image, and
    the last one is a full turn. The coordinates are float32. Raises ModelError where 4 does not divide dim.
    """

    def __init__(self, dim: int, *, temperature: float = TEMPERATURE):
        super().__init__()
        if dim < 4 or dim % 4:
            raise ModelError(f"{dim} channels are no pairs of sines and cosines for two axes: give a multiple of 4")
        self.dim, self.temperature = dim, temperature

    def forward(self, x: Tensor, inside: Tensor | None = None) -> Tensor:
        if inside is not None:
            return self.code(inside).to(x.dtype)
        h, w = x.shape[1:3]
        return by_size(("sine_2d", h, w, self.dim, self.temperature), x,
                       lambda: self.code(torch.ones(1, h, w, dtype=torch.bool, device=x.device)).to(x.dtype))

    def code(self, inside: Tensor) -> Tensor:
        """(B, H, W) of truth -> (B, H, W, dim) in float32, y first."""
        def along(axis: int) -> Tensor:
            count = inside.cumsum(axis, dtype=torch.float32)                    # (B, H, W)
            share = count / (count.narrow(axis, -1, 1) + 1e-6)                  # (B, H, W)
            return waves(share * 2 * math.pi, self.dim // 2, temperature=self.temperature)
        return torch.cat([along(1), along(2)], -1)


sine_2d = Position(
    build=Sine2d, enters="added to queries and keys, in every layer", learned=False,
    fits="any map, padded or not: coordinates are shares of the image that the mask shows")
