"""The shared words. A class here never grows a flag for one paper."""
from vitrail.nn.attention import (Attend, GroupedAttention, Merge, SelfAttention, Shown, Softmax, Split, Visible,
                                  second_derivatives)
from vitrail.nn.backbone import Backbone
from vitrail.nn.blocks import (Block, Chain, DropPath, Gelu, LayerNorm, Mlp, Residual, Scale, Stack, drop_path_rates,
                               share, transformer_block)
from vitrail.nn.bodies import TokenBody
from vitrail.nn.convolutions import DepthwiseMlp, SqueezeExcite, conv_norm, round_width
from vitrail.nn.decoding import CrossAttention, KeyValues, MaskedAttention, PostResidual, causal, padding
from vitrail.nn.features import Features, each_stage, from_tokens, pyramid
from vitrail.nn.maps import (AvgPool, BatchNorm, Channels, Conv, Elsewhere, MapPatchEmbed, MaxPool, PatchEmbed,
                             PoolCells, Prefix, Strided, TokenSets, Windows, Within, pad_image)
from vitrail.nn.positions import OffsetBias, PositionTable, RelativeBias, fit_table, grid_of
from vitrail.nn.head import AttentionPool, DroppedMean, Head, class_token, mean_finest, mean_map
from vitrail.nn.reduced import Reduced, ReducedAttention, Shrink, squares

__all__ = [
    "Attend", "AttentionPool", "AvgPool", "Backbone", "BatchNorm", "Block", "Chain", "Channels", "Conv",
    "CrossAttention", "DepthwiseMlp", "DropPath", "DroppedMean", "Elsewhere", "Features", "Gelu", "GroupedAttention",
    "KeyValues", "LayerNorm", "MapPatchEmbed", "MaskedAttention", "MaxPool", "Merge", "Mlp", "OffsetBias", "PatchEmbed",
    "PoolCells", "PositionTable", "PostResidual", "Prefix", "Head", "Reduced", "ReducedAttention", "RelativeBias",
    "Residual", "Scale", "SelfAttention", "Shown", "Shrink", "Softmax", "Split", "SqueezeExcite", "Stack", "Strided",
    "TokenBody", "TokenSets", "Visible", "Windows", "Within", "causal", "class_token", "conv_norm", "each_stage",
    "fit_table", "from_tokens", "grid_of", "mean_finest", "mean_map", "pad_image", "padding", "pyramid",
    "drop_path_rates", "round_width", "second_derivatives", "share", "squares", "transformer_block",
]
