"""GPT-2: a decoder alone, asked for nothing but the next token, learns many tasks on the way.

Radford et al., 2019, "Language Models are Unsupervised Multitask Learners". It appeared on no preprint server.
"""
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.core.card import Idea, Paper, TextFigures, Variant, Weights, variant
from vitrail.core.errors import ModelError
from vitrail.core.keys import Fold, Keys, Row
from vitrail.nn import Block, KeyValues, MaskedAttention, Mlp, Residual, Stack, causal

PAPER = Paper(title="Language Models are Unsupervised Multitask Learners", arxiv="", authors="Radford et al.",
              year=2019, venue="OpenAI", code="openai/gpt-2", license="MIT (modified)",
              ideas=(Idea("gpt_1", "section 2.3", "the decoder alone, pre-trained"),
                     Idea("foundations.transformer", "section 2.3", "the block"),
                     Idea("pre_activation", "section 2.3", "norms in front of the branches"),
                     Idea("byte_pairs", "section 2.2", "words made of frequent pairs")))
TASKS = ["causal"]

LayerNorm = partial(nn.LayerNorm, eps=1e-5)


@dataclass(frozen=True)
class Written:
    """What GPT keeps between steps: layer by layer, the keys and values of the text so far."""

    past: tuple[KeyValues, ...]

    def take(self, rows: Tensor) -> "Written":
        """The state of these rows of the batch, in this order; a row may come several times."""
        return Written(tuple(p.take(rows) for p in self.past))


class GPT(nn.Module):
    """Pre-norm blocks under a causal mask, learned positions, one more norm, and the embeddings' matrix for output.

    tokens (B, N) -> logits (B, N, V) of what follows each. `pad` fills up a batch behind the shorter texts; as nothing
    sees what comes after it, nothing is masked. Dropout falls on the embeddings and the branches. Raises ModelError on
    a text longer than `length`.
    """

    def __init__(self, *, vocabulary: int = 50257, pad: int = 0, length: int = 1024, dim: int = 768, depth: int = 12,
                 heads: int = 12, hidden: int = 3072, dropout: float = 0.1):
        super().__init__()
        self.vocabulary, self.pad, self.length, self.dim, self.heads = vocabulary, pad, length, dim, heads
        self.tokens, self.places = nn.Embedding(vocabulary, dim), nn.Embedding(length, dim)
        self.dropout, self.norm = nn.Dropout(dropout), LayerNorm(dim)
        act = partial(nn.GELU, approximate="tanh")
        self.blocks = Stack(Block(Residual(MaskedAttention(dim, heads), LayerNorm(dim), drop=nn.Dropout(dropout)),
                                  Residual(Mlp(dim, hidden, act), LayerNorm(dim), drop=nn.Dropout(dropout)))
                            for _ in range(depth))
        nn.init.normal_(self.tokens.weight, std=0.02)
        nn.init.normal_(self.places.weight, std=0.01)
        for name, part in self.named_modules():
            if isinstance(part, nn.Linear):                 # the last of a branch is born smaller: section 2.3
                last = name.endswith(("out.proj", "fc2"))
                nn.init.normal_(part.weight, std=0.02 / (2 * depth) ** 0.5 if last else 0.02)
                nn.init.zeros_(part.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)                                              # (B, N, C)
        return self.logits(self.blocks(x, causal(x.shape[1], like=x)))

    def begin(self, rows: int) -> Written:
        """The state before the first token of `rows` texts."""
        none = KeyValues.none(rows, self.heads, self.dim // self.heads, like=self.tokens.weight)
        return Written(tuple(none for _ in self.blocks))

    def step(self, tokens: Tensor, state: Written) -> tuple[Tensor, Written]:
        """The latest token of each text (B,) -> logits (B, V) of the next one, and the state after it."""
        past = tuple(p.copy() for p in state.past)
        x = self.embed(tokens[:, None], start=len(past[0]))                 # (B, 1, C)
        for block, before in zip(cast(Iterable[Block], self.blocks), past, strict=True):
            x = block.mlp(block.mix(x, None, before))                       # (B, 1, C)
        return self.logits(x)[:, 0], Written(past)

    def embed(self, tokens: Tensor, start: int = 0) -> Tensor:
        """Tokens (B, N), the first of them at place `start`, as vectors (B, N, C)."""
        if (end := start + tokens.shape[1]) > self.length:
            raise ModelError(f"a text of {end} tokens is longer than the {self.length} that this GPT has places for: "
                             f"cut it, or build the model with length={end}")
        return self.dropout(self.tokens(tokens) + self.places.weight[start:end])

    def logits(self, x: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, V)"""
        return F.linear(self.norm(x), self.tokens.weight)


def keys(settings: Mapping[str, Any]) -> Keys:
    """transformers' GPT2LMHeadModel, whose matrices stand the other way round; the released files name the same
    tensors without the first word."""
    turned = Fold(lambda weight: weight.T.contiguous(), lambda weight: weight.T.contiguous())
    table: dict[str, str] = {}
    rows, drop = [], ["lm_head.weight"]
    for there in ("transformer.", ""):
        drop += [there + "h.{}.attn.bias", there + "h.{}.attn.masked_bias"]
        table |= {there + "wte.weight": "tokens.weight", there + "wpe.weight": "places.weight",
                  there + "ln_f.*": "norm.*", there + "h.{}.ln_1.*": "blocks.{}.mix.norm.*",
                  there + "h.{}.ln_2.*": "blocks.{}.mlp.norm.*"}
        for theirs, ours in (("attn.c_attn", "mix.fn.qkv.proj"), ("attn.c_proj", "mix.fn.out.proj"),
                             ("mlp.c_fc", "mlp.fn.fc1"), ("mlp.c_proj", "mlp.fn.fc2")):
            rows.append(Row((f"{there}h.{{}}.{theirs}.weight",), f"blocks.{{}}.{ours}.weight", turned))
            table[f"{there}h.{{}}.{theirs}.bias"] = f"blocks.{{}}.{ours}.bias"
    return Keys(table, rows=rows, drop=drop)


KEYS = {"transformers": keys}


def _size(params: int, gflops: float, file: str, reported: float, **args: Any) -> Variant[GPT]:
    return variant(GPT, TextFigures(params=params, gflops=gflops, length=1024, reported={"params_m": reported},
                                    where="table 2"),
                   Weights(name="webtext", source=f"hf://openai-community/{file}/model.safetensors",
                           keys="transformers", license="MIT (modified)", classes=0, image=0),
                   pad=50256, **args)       # the end of a text, as there is no token for padding


gpt_tiny = variant(GPT, TextFigures(params=112_384, gflops=0.017, length=128),
                   vocabulary=64, length=128, dim=64, depth=2, heads=4, hidden=256, dropout=0.0)
gpt2 = _size(124_439_808, 145.824, "gpt2", 117)
gpt2_medium = _size(354_823_168, 413.476, "gpt2-medium", 345, dim=1024, depth=24, heads=16, hidden=4096)
gpt2_large = _size(774_030_080, 887.285, "gpt2-large", 762, dim=1280, depth=36, heads=20, hidden=5120)
gpt2_xl = _size(1_557_611_200, 1753.352, "gpt2-xl", 1542, dim=1600, depth=48, heads=25, hidden=6400)
