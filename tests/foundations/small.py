"""The foundations at a size for tests."""
from typing import Any

import torch
from torch import Tensor, nn

from vitrail.core.card import Variant
from vitrail.foundations.bert import bert_tiny
from vitrail.foundations.gpt import gpt_tiny
from vitrail.foundations.pre_norm import transformer_pre_tiny
from vitrail.foundations.seq2seq import seq2seq_tiny
from vitrail.foundations.transformer import transformer_tiny

V = 23
TRANSLATORS: dict[str, Variant[Any]] = {"post-norm": transformer_tiny, "pre-norm": transformer_pre_tiny,
                                        "recurrent": seq2seq_tiny}
WRITERS: dict[str, Variant[Any]] = {**TRANSLATORS, "gpt": gpt_tiny}
EVERY: dict[str, Variant[Any]] = {**WRITERS, "bert": bert_tiny}


def build(kind: str, *, dtype: torch.dtype = torch.float64, **changes: Any) -> Any:
    """A network with seeded weights, none of them zero, in evaluation mode."""
    entry = EVERY[kind]
    small: dict[str, Any] = dict(vocabulary=V, dim=12, hidden=16)
    small |= dict(maxout=9) if kind == "recurrent" else dict(heads=3)
    small |= dict(length=16) if "length" in entry.settings() else {}
    network = entry(**{**small, **changes}).eval().to(dtype)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator, dtype=dtype)
    return network


def words(*shape: int, seed: int = 0) -> Tensor:
    """Tokens, none of them padding."""
    return torch.randint(1, V, shape, generator=torch.Generator().manual_seed(seed))


def inputs(kind: str, rows: int = 2, n: int = 7) -> tuple[Tensor, ...]:
    """What the network's forward takes; the first text ends in padding."""
    text = words(rows, n, seed=3)
    text[0, -2:] = 0
    if kind == "gpt":
        return (text,)
    if kind == "bert":
        return text, (torch.arange(n) > n // 2).long().expand(rows, -1)
    return text, words(rows, n - 2, seed=4)


def logits(network: Any, *texts: Tensor) -> Tensor:
    """The logits of the tokens, whatever else the network answers."""
    found = network(*texts)
    return found if isinstance(found, Tensor) else found.tokens


def reach(network: Any, embedding: nn.Embedding, texts: tuple[Tensor, ...], call: int) -> Tensor:
    """How much output t of the second text depends on input s: the largest derivative, (T, S). `call` says which use of
    the embedding is looked at."""
    seen: list[Tensor] = []
    handle = embedding.register_forward_hook(lambda module, args, out: seen.append(out))
    found = logits(network, *texts)
    handle.remove()
    rows = [torch.autograd.grad(out.square().sum(), seen[call], retain_graph=True)[0] for out in found[1]]
    assert all(bool((g[0] == 0).all()) for g in rows), "a text sees another text of the batch"
    return torch.stack([g[1].abs().amax(-1) for g in rows])
