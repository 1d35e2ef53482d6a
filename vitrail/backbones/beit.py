"""BEiT: a ViT that learned to fill in masked patches; here is the backbone, as it is tuned to classify.

Bao et al., ICLR 2022, arXiv:2106.08254. Positions are offsets, biases of each layer's scores, and nothing else.
"""
import math
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.core.card import HALF_MEAN, HALF_STD, Figures, Idea, Paper, Variant, Weights, variant
from vitrail.core.errors import CheckpointError
from vitrail.core.keys import Keys
from vitrail.nn import (Attend, Block, DropPath, Features, LayerNorm, Merge, Mlp, PatchEmbed, Prefix, Head, Residual,
                        Scale, Split, Stack, from_tokens, grid_of, init, mean_map, drop_path_rates)
from vitrail.nn.names import block_names
from vitrail.ops.positions import resample_positions
from vitrail.ops.windows import by_size

PAPER = Paper(title="BEiT: BERT Pre-Training of Image Transformers", arxiv="2106.08254", authors="Bao et al.",
              year=2022, venue="ICLR", code="microsoft/unilm", license="MIT",
              ideas=(Idea("backbones.vit", "section 2.2", "the backbone"),
                     Idea("foundations.bert", "abstract", "learning to fill in what is masked"),
                     Idea("dall_e", "section 2.1", "a discrete autoencoder's tokens as targets")))


def class_offsets(grid: tuple[int, int], like: Tensor) -> Tensor:
    """(1 + N, 1 + N): which entry of a table tells query from key on a grid of N places, the class token first.

    The (2h - 1)(2w - 1) offsets, row first, then three: the class token's look at a place, a place's at the class
    token, and the class token's at itself.
    """
    def make() -> Tensor:
        h, w = grid
        y, x = torch.meshgrid(*(torch.arange(n, device=like.device) for n in grid), indexing="ij")
        at = (y * (2 * w - 1) + x).flatten()
        index = F.pad(at[:, None] - at + (h - 1) * (2 * w - 1) + w - 1, (1, 0, 1, 0))
        offsets = (2 * h - 1) * (2 * w - 1)
        index[0], index[1:, 0], index[0, 0] = offsets, offsets + 1, offsets + 2
        return index
    return by_size(("class_offsets", *grid), like, make)


class ClassRelativeBias(nn.Module):
    """One learned bias a head for each offset on a grid, and three for the class token: (H, 1 + N, 1 + N).

    On another grid than its own the offsets of the table are resampled (`ops.positions`); the last three stay.
    """

    def __init__(self, grid: tuple[int, int], heads: int):
        super().__init__()
        self.grid = grid
        self.table = nn.Parameter(torch.zeros((2 * grid[0] - 1) * (2 * grid[1] - 1) + 3, heads))

    def forward(self, grid: tuple[int, int]) -> Tensor:
        table = self.resampled(self.table, self.grid, grid)
        # an embedding, not table[index]: the gradient of the latter is not repeatable on two threads
        return F.embedding(class_offsets(grid, table), table).permute(2, 0, 1).contiguous()

    @staticmethod
    def resampled(table: Tensor, old: tuple[int, int], grid: tuple[int, int]) -> Tensor:
        (h, w), (new_h, new_w) = old, grid
        places = resample_positions(table[None, :-3], (2 * new_h - 1, 2 * new_w - 1), old=(2 * h - 1, 2 * w - 1))
        return torch.cat([places[0], table[-3:]])

    def fit(self, table: Tensor) -> Tensor:
        """A table of another (square) grid, resampled for this one. Raises CheckpointError where it is none."""
        side = math.isqrt(max(table.shape[0] - 3, 0))
        if table.ndim != 2 or side % 2 == 0 or side * side != table.shape[0] - 3 or len(table.T) != len(self.table.T):
            raise CheckpointError(f"a table of relative biases of shape {tuple(table.shape)} does not fit "
                                  f"{tuple(self.table.shape)}: offsets of a square grid, and three")
        return self.resampled(table, ((side + 1) // 2,) * 2, self.grid)


class BiasedAttention(nn.Module):
    """Self-attention with a bias for each offset, and with learned biases of queries and values alone.

    A bias of keys would add the same to all scores of a query, which no softmax sees; the release has none.
    """

    def __init__(self, dim: int, heads: int, grid: tuple[int, int]):
        super().__init__()
        self.qkv, self.attend, self.out = Split(dim, heads, 3, bias=False), Attend(), Merge(dim)
        self.q_bias, self.v_bias = nn.Parameter(torch.zeros(dim)), nn.Parameter(torch.zeros(dim))
        self.bias = ClassRelativeBias(grid, heads)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:              # (B, 1 + N, C)
        q, k, v = self.qkv(x)                                                   # (B, H, M, D)
        q, v = (t + b.view(t.shape[1], 1, -1) for t, b in ((q, self.q_bias), (v, self.v_bias)))     # (B, H, M, D)
        return self.out(self.attend(q, k, v, self.bias(grid)))


class NormedMean(nn.Module):
    """The norm of the mean of the patch tokens: (B, C). The class token is not asked."""

    def __init__(self, dim: int):
        super().__init__()
        self.norm = LayerNorm(dim)

    def forward(self, f: Features) -> Tensor:
        return self.norm(mean_map(f))


class BEiT(nn.Module):
    """Patches, a class token, and `depth` pre-norm blocks with layer scale; no norm at the end, which is the head's.

    image (B, 3, H, W) -> one map (B, ⌈H/p⌉, ⌈W/p⌉, dim) and the class token.
    """

    stem_weights = ("patch_embed.proj.weight",)

    def __init__(self, *, image: int | tuple[int, int] = 224, patch: int = 16, dim: int = 768, depth: int = 12,
                 heads: int = 12, mlp_ratio: float = 4.0, scale: float = 0.1, in_chans: int = 3,
                 drop_path: float = 0.0):
        super().__init__()
        self.channels, self.strides = (dim,), (patch,)
        self.patch_embed, self.prefix = PatchEmbed(patch, dim, in_chans=in_chans), Prefix(1, dim)
        grid = grid_of(image, patch)

        mixers = [BiasedAttention(dim, heads, grid) for _ in range(depth)]
        mlps = [Mlp(dim, int(dim * mlp_ratio)) for _ in range(depth)]

        def residual(fn: nn.Module, p: float) -> Residual:
            return Residual(fn, LayerNorm(dim), scale=Scale(dim, scale), drop=DropPath(p))
        self.blocks = Stack(Block(mix=residual(mix, p), mlp=residual(mlp, p))
                            for mix, mlp, p in zip(mixers, mlps, drop_path_rates(drop_path, depth), strict=True))
        init.truncated(self)
        for i, (mix, mlp) in enumerate(zip(mixers, mlps, strict=True)):
            for last in (mix.out.proj, mlp.fc2):            # the deeper a block, the less it adds at first
                last.weight.data /= math.sqrt(2 * (i + 1))

    def forward(self, image: Tensor) -> Features:
        x = self.patch_embed(image)                                                # (B, h, w, C)
        grid = x.shape[1:3]
        x = self.blocks(self.prefix(x.flatten(1, 2)), grid)                     # (B, N, C)
        return from_tokens(x, grid, prefix=1)

    def make_head(self, classes: int) -> nn.Module:
        """A linear layer, born a thousandth of its usual size, on the norm of the mean."""
        return Head(self.channels[-1], classes, NormedMean(self.channels[-1]),
                       init_weights=partial(init.truncated_linears, std=0.02 * 0.001))


def _size(params: int, gflops: float, file: str, image: int, *releases: tuple[str, float | None],
          **args: Any) -> Variant[BEiT]:
    """A size with its releases: what each was tuned on after the masked patches of ImageNet-22k, and its score."""
    weights = []
    for tuned, top1 in releases:
        seen: dict[str, Any] = dict(image=image, mean=HALF_MEAN, std=HALF_STD,
                                    classes=21841 if tuned == "22k" else 1000,
                                    reported={} if top1 is None else {"top1": top1},
                                    where="" if top1 is None else "README of beit in microsoft/unilm")
        if (copied := {"22k": "in22k_ft_in22k", "22kto1k": "in22k_ft_in22k_in1k"}.get(tuned)) is not None:
            weights.append(Weights(name=copied, source=f"hf://timm/{file}_{image}.{copied}/model.safetensors",
                                   keys="timm", license="Apache-2.0", crop=0.9 if image == 224 else 1.0, **seen))
        weights.append(Weights(name=f"official_ft{tuned}", keys="official", license="MIT", inside="model",
                               crop=0.875 if image == 224 else 1.0,
                               source="https://github.com/addf400/files/releases/download/v1.0/"
                                      f"{file}_{image}_pt22k_ft{tuned}.pth", **seen))
    return variant(BEiT, Figures(params=params, gflops=gflops, image=image), *weights, image=image, **args)


_B: dict[str, Any] = dict(dim=768, depth=12, heads=12, scale=0.1)
_L: dict[str, Any] = dict(dim=1024, depth=24, heads=16, scale=1e-5)

beit_b16 = _size(86_530_984, 17.564, "beit_base_patch16", 224, ("22kto1k", 85.2), ("1k", 83.7), ("22k", None), **_B)
beit_b16_384 = _size(86_744_104, 55.484, "beit_base_patch16", 384, ("22kto1k", 86.8), **_B)
beit_l16 = _size(304_430_568, 61.555, "beit_large_patch16", 224, ("22kto1k", 87.4), ("1k", 86.0), ("22k", None), **_L)
beit_l16_384 = _size(304_998_888, 191.066, "beit_large_patch16", 384, ("22kto1k", 88.4), **_L)
beit_l16_512 = _size(305_674_728, 361.986, "beit_large_patch16", 512, ("22kto1k", 88.60), **_L)

# timm keeps the authors' names
LAYOUT = Keys({
    "patch_embed.proj.*":                                   "backbone.patch_embed.proj.*",
    "cls_token":                                            "backbone.prefix.tokens",
    "blocks.{}.gamma_1":                                    "backbone.blocks.{}.mix.scale.gamma",
    "blocks.{}.attn.q_bias":                                "backbone.blocks.{}.mix.fn.q_bias",
    "blocks.{}.attn.v_bias":                                "backbone.blocks.{}.mix.fn.v_bias",
    "blocks.{}.attn.relative_position_bias_table":          "backbone.blocks.{}.mix.fn.bias.table",
    "blocks.{}.gamma_2":                                    "backbone.blocks.{}.mlp.scale.gamma",
    **block_names("blocks.{}.", "backbone.blocks.{}."),
    "fc_norm.*":                                            "head.pool.norm.*",
    "head.*":                                               "head.linear.*",
}, drop=("blocks.{}.attn.relative_position_index",))

KEYS = {"timm": lambda settings: LAYOUT, "official": lambda settings: LAYOUT}
