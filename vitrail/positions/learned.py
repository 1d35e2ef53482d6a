"""Learned positions: one free vector for each place, resampled like an image when the grid changes.

Dosovitskiy et al., ICLR 2021, arXiv:2010.11929, section 3.1; the resampling is section 3.2's. The word is
`vitrail.nn`'s; this file gives it a place among the position codes.
"""
from vitrail.core.card import Idea, Paper
from vitrail.core.mechanism import Position
from vitrail.nn import PositionTable

PAPER = Paper(title="An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale", arxiv="2010.11929",
              authors="Dosovitskiy et al.", year=2021, venue="ICLR", code="google-research/vision_transformer",
              license="Apache-2.0",
              ideas=(Idea("foundations.transformer", "section 3.1", "positions added to the tokens"),))

learned = Position(
    build=PositionTable, enters="added to the tokens, once", learned=True,
    fits="any grid, by bicubic resampling of the learned one; the rows of tokens without a place stay")
