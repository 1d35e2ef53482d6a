"""Relative bias: one learned number a head for each offset between two places of a window, added to their score.

Liu et al., ICCV 2021, arXiv:2103.14030, equation 4. The word is `vitrail.nn`'s; this file gives it a place among the
position codes.
"""
from vitrail.core.card import Idea, Paper
from vitrail.core.mechanism import Position
from vitrail.nn import RelativeBias

PAPER = Paper(title="Swin Transformer: Hierarchical Vision Transformer using Shifted Windows", arxiv="2103.14030",
              authors="Liu et al.", year=2021, venue="ICCV", code="microsoft/Swin-Transformer", license="MIT",
              ideas=(Idea("attention.local_relation", "section 3.2", "a bias of the scores by the offset"),
                     Idea("relation_networks", "section 3.2", "a bias of the scores by the offset"),
                     Idea("t5", "section 3.2", "a bias of the scores by the offset")))

relative_bias = Position(
    build=RelativeBias, enters="added to the scores, in every layer", learned=True,
    fits="its own window; for another one the table is resampled by `fit`")
