"""The Transformer: attention alone carries a sentence from one language into another.

Vaswani et al., NeurIPS 2017, arXiv:1706.03762.
"""
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.core.card import Idea, Paper, TextFigures, variant
from vitrail.nn import (Block, CrossAttention, KeyValues, LayerNorm, MaskedAttention, Mlp, PostResidual, Stack, causal,
                        init, padding)
from vitrail.positions.sinusoidal import Sinusoidal

PAPER = Paper(title="Attention Is All You Need", arxiv="1706.03762", authors="Vaswani et al.", year=2017,
              venue="NeurIPS", code="tensorflow/tensor2tensor", license="Apache-2.0",
              builds_on=("positions.sinusoidal",),
              ideas=(Idea("attention.self_attention", "section 3.2", "attention, in three places"),
                     Idea("positions.sinusoidal", "section 3.5", "its positions"),
                     Idea("foundations.seq2seq", "section 3.2.3", "a decoder that attends to the encoder"),
                     Idea("conv_s2s", "section 2", "translation without recurrence"),
                     Idea("backbones.resnet", "section 3.1", "a shortcut around each layer"),
                     Idea("layer_norm", "section 3.1", "the norm after each shortcut")))
TASKS = ["translation"]


class DecoderBlock(nn.Module):
    """Look back over the text so far, look at the source, mix channels (figure 1, right)."""

    def __init__(self, mix: nn.Module, ask: nn.Module, mlp: nn.Module):
        super().__init__()
        self.mix, self.ask, self.mlp = mix, ask, mlp

    def forward(self, x: Tensor, mask: Tensor, memory: Tensor, pads: Tensor) -> Tensor:
        """x (B, T, C) under its mask, the source's memory (B, S, C) under the mask of its padding -> (B, T, C)."""
        return self.mlp(self.ask(self.mix(x, mask), self.keep(memory), pads))

    def step(self, x: Tensor, past: KeyValues, source: KeyValues, pads: Tensor) -> Tensor:
        """The same for the next token (B, 1, C), which is added to `past`."""
        return self.mlp(self.ask(self.mix(x, None, past), source, pads))

    def keep(self, memory: Tensor) -> KeyValues:
        """The source's keys and values for this layer."""
        cross = self.ask.fn
        assert isinstance(cross, CrossAttention)
        return cross.keep(memory)


@dataclass(frozen=True)
class Writing:
    """What a decoder keeps between steps: layer by layer the keys and values of the text so far and of the source,
    and the mask of the source's padding, (B, 1, 1, S)."""

    past: tuple[KeyValues, ...]
    source: tuple[KeyValues, ...]
    pads: Tensor

    def take(self, rows: Tensor) -> "Writing":
        """The state of these rows of the batch, in this order; a row may come several times."""
        return Writing(tuple(p.take(rows) for p in self.past), tuple(s.take(rows) for s in self.source),
                       self.pads[rows])


class EncoderDecoder(nn.Module):
    """One stack reads the source, another writes the target; a subclass says where the norms stand.

    around: puts a residual around a part of a layer. last: makes what ends a stack.
    Both embeddings and the output share one matrix, scaled by √dim where it embeds (section 3.4). The projections of
    attention have no biases (section 3.2.2). Dropout falls on every branch and on the embeddings (section 5.4).
    """

    def __init__(self, around: Callable[[nn.Module], nn.Module], last: Callable[[int], nn.Module], *, vocabulary: int,
                 pad: int, dim: int, depth: int, heads: int, hidden: int, dropout: float):
        super().__init__()
        self.vocabulary, self.pad, self.dim, self.heads = vocabulary, pad, dim, heads
        self.tokens, self.position, self.dropout = nn.Embedding(vocabulary, dim), Sinusoidal(dim), nn.Dropout(dropout)

        def attention(tokens: str) -> nn.Module:
            return around(MaskedAttention(dim, heads, bias=False, tokens=tokens))

        def mlp() -> nn.Module:
            return around(Mlp(dim, hidden, nn.ReLU))

        self.encoder = Stack(Block(attention("source"), mlp()) for _ in range(depth))
        self.decoder = Stack(
            DecoderBlock(attention("target"), around(CrossAttention(dim, heads, bias=False)), mlp())
            for _ in range(depth))
        self.encoded, self.decoded = last(dim), last(dim)
        nn.init.normal_(self.tokens.weight, std=dim ** -0.5)
        init.xavier_linears(self)
        for part in self.modules():
            if isinstance(part, Mlp):                       # the small biases that it gave them are ViT's
                nn.init.zeros_(part.fc1.bias)
                nn.init.zeros_(part.fc2.bias)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """source (B, S), target (B, T) that begins with the start token -> logits (B, T, V) of what follows each."""
        memory, pads = self.encode(source)
        x = self.embed(target)                                              # (B, T, C)
        return self.logits(self.decoder(x, causal(x.shape[1], like=x), memory, pads))

    def begin(self, source: Tensor) -> Writing:
        """The state before the start token, after source (B, S)."""
        memory, pads = self.encode(source)
        none = KeyValues.none(len(source), self.heads, self.dim // self.heads, like=memory)
        return Writing(tuple(none for _ in self.decoder), tuple(block.keep(memory) for block in self.layers()), pads)

    def step(self, tokens: Tensor, state: Writing) -> tuple[Tensor, Writing]:
        """The latest token of each text (B,) -> logits (B, V) of the next one, and the state after it."""
        past = tuple(p.copy() for p in state.past)
        x = self.embed(tokens[:, None], start=len(past[0]))                 # (B, 1, C)
        for block, before, source in zip(self.layers(), past, state.source, strict=True):
            x = block.step(x, before, source, state.pads)                   # (B, 1, C)
        return self.logits(x)[:, 0], replace(state, past=past)

    def encode(self, source: Tensor) -> tuple[Tensor, Tensor]:
        """The memory (B, S, C) of source (B, S), and the mask of its padding (B, 1, 1, S)."""
        x = self.embed(source)                                              # (B, S, C)
        pads = padding(source, self.pad, like=x)                            # (B, 1, 1, S)
        return self.encoded(self.encoder(x, pads)), pads

    def embed(self, tokens: Tensor, start: int = 0) -> Tensor:
        """Tokens (B, N), the first of them at place `start`, as vectors (B, N, C)."""
        return self.dropout(self.position(self.tokens(tokens) * math.sqrt(self.dim), start))

    def logits(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, V)"""
        return F.linear(self.decoded(x), self.tokens.weight)

    def layers(self) -> Iterable[DecoderBlock]:
        return cast(Iterable[DecoderBlock], self.decoder)


class Transformer(EncoderDecoder):
    """A norm after each residual (section 3.1), and none at the ends. source (B, S), target (B, T) -> (B, T, V)."""

    def __init__(self, *, vocabulary: int = 37000, pad: int = 0, dim: int = 512, depth: int = 6, heads: int = 8,
                 hidden: int = 2048, dropout: float = 0.1):
        super().__init__(lambda fn: PostResidual(fn, LayerNorm(dim), drop=nn.Dropout(dropout)), nn.Identity,
                         vocabulary=vocabulary, pad=pad, dim=dim, depth=depth, heads=heads, hidden=hidden,
                         dropout=dropout)


transformer_tiny = variant(Transformer, TextFigures(params=236_032, gflops=0.008, length=32),
                           vocabulary=64, dim=64, depth=2, heads=4, hidden=256, dropout=0.0)
transformer_base = variant(Transformer, TextFigures(params=63_045_632, gflops=3.195, length=50,
                                                    reported={"params_m": 65}, where="table 3"))
transformer_big = variant(Transformer, TextFigures(params=214_171_648, gflops=10.795, length=50,
                                                   reported={"params_m": 213}, where="table 3"),
                          dim=1024, heads=16, hidden=4096, dropout=0.3)
