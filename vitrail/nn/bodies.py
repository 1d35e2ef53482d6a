"""What backbones of plain tokens do with an image."""
from torch import Tensor, nn

from vitrail.nn.blocks import Stack
from vitrail.nn.features import Features, from_tokens
from vitrail.nn.maps import Prefix
from vitrail.nn.positions import PositionTable


class TokenBody(nn.Module):
    """Tokens with a prefix and positions pass through blocks of one width, and a norm. A paper says what each part is.

    image (B, 3, H, W) -> one map (B, ⌈H/p⌉, ⌈W/p⌉, dim) and the prefix, `tokens` long, in that order.
    """

    tokens = 1
    stem_weights: tuple[str, ...] = ("patch_embed.proj.weight",)
    patch_embed: nn.Module
    prefix: Prefix
    position: PositionTable
    blocks: Stack
    norm: nn.Module

    def forward(self, image: Tensor) -> Features:
        x = self.patch_embed(image)                                        # (B, h, w, C)
        grid = x.shape[1:3]
        x = self.position(self.prefix(x.flatten(1, 2)), grid)           # (B, N, C)
        return from_tokens(self.norm(self.blocks(x)), grid, prefix=self.tokens)
