"""The Transformer with its norms inside the residuals: gradients are well-behaved from birth, and no warm-up is needed.

Xiong et al., ICML 2020, arXiv:2002.04745.
"""
from torch import nn

from vitrail.core.card import Idea, Paper, TextFigures, variant
from vitrail.foundations.transformer import EncoderDecoder
from vitrail.nn import LayerNorm, Residual

PAPER = Paper(title="On Layer Normalization in the Transformer Architecture", arxiv="2002.04745",
              authors="Xiong et al.", year=2020, venue="ICML", builds_on=("foundations.transformer",),
              ideas=(Idea("foundations.transformer", "section 3.1", "the network whose norms it moves"),
                     Idea("deep_transformer", "introduction", "norms in front of the branches")))
TASKS = ["translation"]


class PreNormTransformer(EncoderDecoder):
    """A norm before each branch, and one at the end of each stack (table 1, right).

    source (B, S), target (B, T) -> logits (B, T, V).
    """

    def __init__(self, *, vocabulary: int = 37000, pad: int = 0, dim: int = 512, depth: int = 6, heads: int = 8,
                 hidden: int = 2048, dropout: float = 0.1):
        super().__init__(lambda fn: Residual(fn, LayerNorm(dim), drop=nn.Dropout(dropout)), LayerNorm,
                         vocabulary=vocabulary, pad=pad, dim=dim, depth=depth, heads=heads, hidden=hidden,
                         dropout=dropout)


transformer_pre_tiny = variant(PreNormTransformer, TextFigures(params=236_288, gflops=0.008, length=32),
                               vocabulary=64, dim=64, depth=2, heads=4, hidden=256, dropout=0.0)
transformer_pre_base = variant(PreNormTransformer, TextFigures(params=63_047_680, gflops=3.195, length=50))
