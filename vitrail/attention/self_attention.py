"""Self-attention: every token asks all others, and takes the weighted mean of what they answer.

Vaswani et al., NeurIPS 2017, arXiv:1706.03762. The words are `vitrail.nn`'s; this file gives them a place among the
mechanisms that set out to replace them.
"""
from vitrail.core.card import Idea, Paper
from vitrail.core.mechanism import QUADRATIC, Mechanism, Takes
from vitrail.nn import SelfAttention

PAPER = Paper(title="Attention Is All You Need", arxiv="1706.03762", authors="Vaswani et al.", year=2017,
              venue="NeurIPS", code="tensorflow/tensor2tensor", license="Apache-2.0",
              ideas=(Idea("foundations.seq2seq", "section 3.2.1", "attention, there additive"),
                     Idea("decomposable_attention", "section 2", "attention without recurrence"),
                     Idea("self_attentive", "section 2", "a sentence that attends to itself")))

self_attention = Mechanism(
    build=SelfAttention, mixer=lambda dim, heads, grid: SelfAttention(dim, heads), takes=Takes.TOKENS, time=QUADRATIC,
    memory=QUADRATIC, where="table 1 (the fused kernel that runs here holds no N x N map: its memory grows with N)",
    shows="the weights, (B, heads, N, N)")
