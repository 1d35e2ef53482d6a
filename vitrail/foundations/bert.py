"""BERT: a text that reads both ways learns by filling gaps, and by telling whether two passages belong together.

Devlin et al., NAACL 2019, arXiv:1810.04805.
"""
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.core.card import Idea, Paper, TextFigures, Weights, variant
from vitrail.core.errors import ModelError
from vitrail.core.keys import Fold, Keys, Row
from vitrail.nn import Block, Gelu, MaskedAttention, Mlp, PostResidual, Stack, padding

PAPER = Paper(title="BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding",
              arxiv="1810.04805", authors="Devlin et al.", year=2019, venue="NAACL", code="google-research/bert",
              license="Apache-2.0",
              ideas=(Idea("foundations.transformer", "section 3", "the encoder"),
                     Idea("gpt_1", "introduction", "pre-training a Transformer, then tuning all of it"),
                     Idea("elmo", "introduction", "representations from both directions"),
                     Idea("cloze", "introduction", "filling gaps"),
                     Idea("gelu", "appendix A.2", "the activation")))
TASKS = ["masked"]

LayerNorm = partial(nn.LayerNorm, eps=1e-12)


@dataclass(frozen=True)
class Pretraining:
    """What BERT answers: logits of the token at each place (B, N, V), and of whether the second passage follows the
    first (0) or was drawn at random (1), (B, 2)."""

    tokens: Tensor
    next: Tensor


class Bert(nn.Module):
    """A post-norm encoder of token + segment + position, with the two heads that it is pre-trained with.

    tokens (B, N) that begin with the class token, segments (B, N) of 0 and 1 -> Pretraining. The output shares the
    matrix of the embeddings. GELU is exact, as in transformers; the authors' code approximates it by a tanh. The
    authors also drop weights of attention while training, which is left out here. Raises ModelError on a text longer
    than `length`.
    """

    def __init__(self, *, vocabulary: int = 30522, pad: int = 0, length: int = 512, dim: int = 768, depth: int = 12,
                 heads: int = 12, hidden: int = 3072, dropout: float = 0.1):
        super().__init__()
        self.vocabulary, self.pad, self.length = vocabulary, pad, length
        self.tokens, self.segments = nn.Embedding(vocabulary, dim), nn.Embedding(2, dim)
        self.places, self.norm, self.dropout = nn.Embedding(length, dim), LayerNorm(dim), nn.Dropout(dropout)

        def around(fn: nn.Module) -> nn.Module:
            return PostResidual(fn, LayerNorm(dim), drop=nn.Dropout(dropout))

        self.blocks = Stack(Block(around(MaskedAttention(dim, heads)), around(Mlp(dim, hidden))) for _ in range(depth))
        self.pool, self.next = nn.Linear(dim, dim), nn.Linear(dim, 2)
        self.guess, self.guess_act, self.guess_norm = nn.Linear(dim, dim), Gelu(), LayerNorm(dim)
        self.bias = nn.Parameter(torch.zeros(vocabulary))
        for part in self.modules():
            if isinstance(part, (nn.Linear, nn.Embedding)):
                nn.init.trunc_normal_(part.weight, std=0.02, a=-0.04, b=0.04)
            if isinstance(part, nn.Linear):
                nn.init.zeros_(part.bias)

    def forward(self, tokens: Tensor, segments: Tensor) -> Pretraining:
        x = self.read(tokens, segments)                                     # (B, N, C)
        guess = self.guess_norm(self.guess_act(self.guess(x)))              # (B, N, C)
        return Pretraining(tokens=F.linear(guess, self.tokens.weight, self.bias),
                           next=self.next(self.pool(x[:, 0]).tanh()))

    def read(self, tokens: Tensor, segments: Tensor) -> Tensor:
        """What the encoder makes of each token: (B, N, C)."""
        if (n := tokens.shape[1]) > self.length:
            raise ModelError(f"a text of {n} tokens is longer than the {self.length} that this BERT has places for: "
                             f"cut it, or build the model with length={n}")
        x = self.tokens(tokens) + self.segments(segments) + self.places.weight[:n]
        return self.blocks(self.dropout(self.norm(x)), padding(tokens, self.pad, like=x))


def keys(settings: Mapping[str, Any]) -> Keys:
    """transformers' BertForPreTraining; files may give the norms their older names, gamma and beta."""
    there, here = "bert.encoder.layer.{}.", "blocks.{}."
    table = {"bert.embeddings.word_embeddings.weight": "tokens.weight",
             "bert.embeddings.position_embeddings.weight": "places.weight",
             "bert.embeddings.token_type_embeddings.weight": "segments.weight",
             there + "attention.output.dense.*": here + "mix.fn.out.proj.*",
             there + "intermediate.dense.*": here + "mlp.fn.fc1.*",
             there + "output.dense.*": here + "mlp.fn.fc2.*",
             "bert.pooler.dense.*": "pool.*",
             "cls.predictions.transform.dense.*": "guess.*",
             "cls.predictions.bias": "bias",
             "cls.seq_relationship.*": "next.*"}
    norms = {"bert.embeddings": "norm", there + "attention.output": here + "mix.norm",
             there + "output": here + "mlp.norm", "cls.predictions.transform": "guess_norm"}
    for theirs, ours in norms.items():
        table |= {f"{theirs}.LayerNorm.{name}": f"{ours}.{kind}"
                  for kind, old in (("weight", "gamma"), ("bias", "beta")) for name in (kind, old)}
    joined = Fold(lambda *parts: torch.cat(parts), lambda qkv: qkv.chunk(3))
    rows = [Row(tuple(f"{there}attention.self.{part}.{kind}" for part in ("query", "key", "value")),
                f"{here}mix.fn.qkv.proj.{kind}", joined) for kind in ("weight", "bias")]
    return Keys(table, rows=rows, drop=("cls.predictions.decoder.*", "bert.embeddings.position_ids"))


KEYS = {"transformers": keys}


def _released(file: str) -> Weights:
    return Weights(name="uncased", source=f"hf://google-bert/{file}/model.safetensors", keys="transformers",
                   license="Apache-2.0", classes=0, image=0)


bert_tiny = variant(Bert, TextFigures(params=121_154, gflops=0.018, length=128),
                    vocabulary=64, length=128, dim=64, depth=2, heads=4, hidden=256, dropout=0.0)
bert_base = variant(Bert, TextFigures(params=110_106_428, gflops=60.623, length=512,
                                      reported={"params_m": 110}, where="section 3"), _released("bert-base-uncased"))
bert_large = variant(Bert, TextFigures(params=336_226_108, gflops=184.044, length=512,
                                       reported={"params_m": 340}, where="section 3"), _released("bert-large-uncased"),
                     dim=1024, depth=24, heads=16, hidden=4096)
