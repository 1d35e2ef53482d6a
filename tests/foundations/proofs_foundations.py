"""The foundations beside transformers, torch.nn's layers, and the formulas of the recurrent paper written out."""
import math
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tests.attention.proof import Proof, apart
from vitrail.core.card import Variant
from vitrail.core.torchvision_guard import import_torchvision
from vitrail.foundations import bert, gpt, pre_norm, seq2seq, transformer
from vitrail.testing.noise import fill_

SIZES = ((7, 5), (12, 9))           # source and target, or the text
VOCABULARY = 40


def texts(*shape: int, seed: int) -> Tensor:
    """Tokens 1 to V - 1, the second row of which ends in two places of padding (0)."""
    tokens = torch.randint(1, VOCABULARY, shape, generator=torch.Generator().manual_seed(seed))
    tokens[1, -2:] = 0
    return tokens


def small(entry: Variant[Any], **changes: Any) -> dict[str, Any]:
    """Changes that leave an entry's heads and cut the rest."""
    heads = entry.settings()["heads"]
    return dict(vocabulary=VOCABULARY, dim=8 * heads, depth=2, hidden=24 * heads, dropout=0.0, **changes)


@torch.no_grad()
def stepped(network: Any, state: Any, tokens: Tensor) -> Tensor:
    """The logits (B, T, V) of one step for each token."""
    found = []
    for token in tokens.unbind(1):
        logits, state = network.step(token, state)
        found.append(logits)
    return torch.stack(found, 1)


class TorchTransformer(nn.Module):
    """torch.nn's layers, with embeddings and positions around them; `norm_first` says which of the two papers."""

    def __init__(self, norm_first: bool, *, vocabulary: int, dim: int, depth: int, heads: int, hidden: int,
                 dropout: float):
        super().__init__()
        made: dict[str, Any] = dict(dropout=dropout, layer_norm_eps=1e-6, batch_first=True, norm_first=norm_first)
        # torch.nn.Transformer ends both stacks with a norm; the paper of 2017 has none there
        last = [nn.LayerNorm(dim, eps=1e-6) if norm_first else None for _ in range(2)]
        self.tokens = nn.Embedding(vocabulary, dim)
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(dim, heads, hidden, **made), depth, last[0],
                                             enable_nested_tensor=False)
        self.decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(dim, heads, hidden, **made), depth, last[1])

    def embed(self, tokens: Tensor) -> Tensor:
        dim = self.tokens.embedding_dim
        code = torch.tensor([[(math.cos if i % 2 else math.sin)(p / 10000 ** ((i - i % 2) / dim)) for i in range(dim)]
                             for p in range(tokens.shape[1])])
        return self.tokens(tokens) * dim ** 0.5 + code

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        pads, n = source == 0, target.shape[1]
        memory = self.encoder(self.embed(source), src_key_padding_mask=pads)
        x = self.decoder(self.embed(target), memory, tgt_mask=torch.ones(n, n, dtype=torch.bool).triu(1),
                         memory_key_padding_mask=pads)
        return x @ self.tokens.weight.T


def from_torch(state: dict[str, Tensor], depth: int, ends: bool) -> dict[str, Tensor]:
    """The tensors of a TorchTransformer under our names."""
    ours = {"tokens.weight": state["tokens.weight"]}
    for stack, norms in (("encoder", ("mix", "mlp")), ("decoder", ("mix", "ask", "mlp"))):
        for i in range(depth):
            there, here = f"{stack}.layers.{i}.", f"{stack}.{i}."
            ours[here + "mix.fn.qkv.proj.weight"] = state[there + "self_attn.in_proj_weight"]
            ours[here + "mix.fn.out.proj.weight"] = state[there + "self_attn.out_proj.weight"]
            if stack == "decoder":
                q, kv = state[there + "multihead_attn.in_proj_weight"].tensor_split([len(state["tokens.weight"][0])])
                ours |= {here + "ask.fn.q.proj.weight": q, here + "ask.fn.kv.proj.weight": kv,
                         here + "ask.fn.out.proj.weight": state[there + "multihead_attn.out_proj.weight"]}
            for kind in ("weight", "bias"):
                ours |= {f"{here}mlp.fn.fc{j}.{kind}": state[f"{there}linear{j}.{kind}"] for j in (1, 2)}
                ours |= {f"{here}{part}.norm.{kind}": state[f"{there}norm{j + 1}.{kind}"]
                         for j, part in enumerate(norms)}
        if ends:
            ours |= {f"{stack[:-2]}ed.{kind}": state[f"{stack}.norm.{kind}"] for kind in ("weight", "bias")}
    return ours


def beside_torch(entry: Variant[Any], norm_first: bool) -> float:
    changes = small(entry)
    reference = TorchTransformer(norm_first, heads=entry.settings()["heads"], **changes).eval()
    fill_(reference)
    for name, parameter in reference.named_parameters():
        if name.endswith(("in_proj_bias", "out_proj.bias")):        # which the papers do not have
            nn.init.zeros_(parameter)
    network = entry(**changes).eval()
    network.load_state_dict(from_torch(reference.state_dict(), changes["depth"], norm_first))
    worst = 0.0
    for s, t in SIZES:
        source, target = texts(2, s, seed=s), texts(2, t, seed=t)
        with torch.no_grad():
            theirs = reference(source, target)
            worst = max(worst, apart(network(source, target), theirs),
                        apart(stepped(network, network.begin(source), target), theirs))
    return worst


def beside_bert(entry: Variant[Any]) -> float:
    import_torchvision()                # which transformers imports too
    from transformers import BertConfig, BertForPreTraining
    changes = small(entry, length=16)
    reference = BertForPreTraining(BertConfig(
        vocab_size=VOCABULARY, hidden_size=changes["dim"], num_hidden_layers=2, hidden_act="gelu",
        num_attention_heads=entry.settings()["heads"], intermediate_size=changes["hidden"],
        max_position_embeddings=16)).eval()
    fill_(reference)
    network = entry(**changes).eval()
    network.load_state_dict(bert.KEYS["transformers"]({}).translate(reference.state_dict()))
    worst = 0.0
    for _, n in SIZES:
        tokens, segments = texts(3, n, seed=n), (torch.arange(n) >= n // 2).long().expand(3, -1)
        with torch.no_grad():
            theirs = reference(tokens, attention_mask=(tokens != 0).long(), token_type_ids=segments)
            ours = network(tokens, segments)
        worst = max(worst, apart(ours.tokens, theirs.prediction_logits),
                    apart(ours.next, theirs.seq_relationship_logits))
    return worst


def beside_gpt2(entry: Variant[Any]) -> float:
    import_torchvision()
    from transformers import GPT2Config, GPT2LMHeadModel
    changes = small(entry, length=16)
    reference = GPT2LMHeadModel(GPT2Config(
        vocab_size=VOCABULARY, n_positions=16, n_embd=changes["dim"], n_layer=2, n_head=entry.settings()["heads"],
        n_inner=changes["hidden"], bos_token_id=0, eos_token_id=0)).eval()
    fill_(reference)
    network = entry(**changes).eval()
    network.load_state_dict(gpt.KEYS["transformers"]({}).translate(reference.state_dict()))
    worst = 0.0
    for _, n in SIZES:
        tokens = texts(2, n, seed=n)
        with torch.no_grad():
            theirs = reference(tokens).logits
            worst = max(worst, apart(network(tokens), theirs),
                        apart(stepped(network, network.begin(2), tokens), theirs))
    return worst


SEARCH = dict(vocabulary=VOCABULARY, dim=12, hidden=10, maxout=7)


class TorchSearch(nn.Module):
    """RNNsearch from torch.nn.GRU and GRUCell, with the attention written out.

    Torch's unit resets after the product with the state's matrix, the paper's before it. Where that matrix is diagonal
    the two are one, so this reference has its candidates' matrices cut to the diagonal, and no bias inside the reset.
    """

    def __init__(self, *, vocabulary: int, dim: int, hidden: int, maxout: int):
        super().__init__()
        self.source, self.target = nn.Embedding(vocabulary, dim), nn.Embedding(vocabulary, dim)
        self.encoder = nn.GRU(dim, hidden, batch_first=True, bidirectional=True)
        self.decoder = nn.GRUCell(dim + 2 * hidden, hidden)
        self.first, self.query = nn.Linear(hidden, hidden), nn.Linear(hidden, hidden)
        self.key, self.score = nn.Linear(2 * hidden, hidden, bias=False), nn.Parameter(torch.zeros(hidden))
        self.units, self.out = nn.Linear(3 * hidden + dim, 2 * maxout), nn.Linear(maxout, vocabulary)

    @torch.no_grad()
    def cut(self) -> None:
        n = self.first.out_features
        for unit, end in ((self.encoder, "_l0"), (self.encoder, "_l0_reverse"), (self.decoder, "")):
            matrix = getattr(unit, "weight_hh" + end)[2 * n:]
            matrix.copy_(matrix.diagonal().clone().diag())
            getattr(unit, "bias_hh" + end)[2 * n:] = 0

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        lengths = (source != 0).sum(1)
        packed = nn.utils.rnn.pack_padded_sequence(self.source(source), lengths, batch_first=True, enforce_sorted=False)
        notes, last = self.encoder(packed)
        notes = nn.utils.rnn.pad_packed_sequence(notes, batch_first=True)[0]
        state, found = self.first(last[1]).tanh(), []
        for word in self.target(target).unbind(1):
            energy = (self.query(state)[:, None] + self.key(notes)).tanh() @ self.score
            weights = energy.masked_fill(source == 0, -math.inf).softmax(1)
            context = (weights[..., None] * notes).sum(1)
            units = self.units(torch.cat([state, word, context], 1))
            found.append(self.out(torch.maximum(units[:, ::2], units[:, 1::2])))
            state = self.decoder(torch.cat([word, context], 1), state)
        return torch.stack(found, 1)


def from_unit(state: dict[str, Tensor], there: str, end: str, n: int) -> dict[str, Tensor]:
    """A unit of torch (reset, keep, new) as ours (renew, reset, new): to renew is not to keep."""
    def turned(t: Tensor) -> Tensor:
        return torch.cat([-t[n:2 * n], t[:n], t[2 * n:]])
    ih, hh = turned(state[f"{there}.weight_ih{end}"]), turned(state[f"{there}.weight_hh{end}"])
    return {"input.weight": ih, "input.bias": turned(state[f"{there}.bias_ih{end}"] + state[f"{there}.bias_hh{end}"]),
            "cell.gates.weight": hh[:2 * n], "cell.candidate.weight": hh[2 * n:]}


def beside_gru(entry: Variant[Any]) -> float:
    reference = TorchSearch(**SEARCH).eval()
    fill_(reference)
    reference.cut()
    state, n, m = reference.state_dict(), SEARCH["hidden"], SEARCH["dim"]
    ours = {k: v for k, v in state.items() if k.startswith(("source", "target", "first", "out"))}
    for name, end in (("forwards", "_l0"), ("backwards", "_l0_reverse")):
        ours |= {f"{name}.{k}": v for k, v in from_unit(state, "encoder", end, n).items()}
    ours |= from_unit(state, "decoder", "", n)
    ours["input.weight"], ours["context.weight"] = ours["input.weight"].tensor_split([m], 1)
    ours |= {f"attend.{k}": v for k, v in state.items() if k.startswith(("query", "key"))}
    ours |= {"attend.score.weight": state["score"][None], "word_out.bias": state["units.bias"]}
    ours["state_out.weight"], ours["word_out.weight"], ours["context_out.weight"] = (
        state["units.weight"].tensor_split([n, n + m], 1))
    network = entry(**SEARCH).eval()
    network.load_state_dict(ours)
    worst = 0.0
    for s, t in SIZES:
        source, target = texts(2, s, seed=s), texts(2, t, seed=t)
        with torch.no_grad():
            theirs = reference(source, target)
            worst = max(worst, apart(network(source, target), theirs),
                        apart(stepped(network, network.begin(source), target), theirs))
    return worst


def by_hand(network: nn.Module, source: list[int], target: list[int]) -> Tensor:
    """The appendix's equations, one sentence without padding and one word at a time: (T, V)."""
    p = {name: value.double() for name, value in network.state_dict().items()}
    n = p["first.weight"].shape[0]

    def unit(read: Tensor, cell: str, s: Tensor) -> Tensor:
        u_z, u_r, u = p[f"{cell}gates.weight"][:n], p[f"{cell}gates.weight"][n:], p[f"{cell}candidate.weight"]
        z, r = torch.sigmoid(read[:n] + u_z @ s), torch.sigmoid(read[n:2 * n] + u_r @ s)
        return (1 - z) * s + z * torch.tanh(read[2 * n:] + u @ (r * s))

    def run(side: str, words: list[int]) -> list[Tensor]:
        s, found = torch.zeros(n, dtype=torch.float64), []
        for w in words:
            s = unit(p[f"{side}.input.weight"] @ p["source.weight"][w] + p[f"{side}.input.bias"], f"{side}.cell.", s)
            found.append(s)
        return found

    right, left = run("forwards", source), run("backwards", source[::-1])[::-1]
    notes = [torch.cat(pair) for pair in zip(right, left, strict=True)]
    s, logits = torch.tanh(p["first.weight"] @ left[0] + p["first.bias"]), []
    for w in target:
        y = p["target.weight"][w]
        energy = [p["attend.score.weight"][0] @ torch.tanh(
            p["attend.query.weight"] @ s + p["attend.query.bias"] + p["attend.key.weight"] @ h) for h in notes]
        total = sum(math.exp(e) for e in energy)
        c = torch.stack([math.exp(e) / total * h for e, h in zip(energy, notes, strict=True)]).sum(0)
        t = (p["state_out.weight"] @ s + p["word_out.weight"] @ y + p["word_out.bias"] + p["context_out.weight"] @ c)
        pairs = torch.stack([max(t[2 * j], t[2 * j + 1]) for j in range(len(t) // 2)])
        logits.append(p["out.weight"] @ pairs + p["out.bias"])
        s = unit(p["input.weight"] @ y + p["input.bias"] + p["context.weight"] @ c, "cell.", s)
    return torch.stack(logits)


def beside_equations(entry: Variant[Any]) -> float:
    network = entry(**SEARCH).eval()
    fill_(network)
    worst = 0.0
    for s, t in SIZES:
        source, target = texts(2, s, seed=s), texts(2, t, seed=t)
        with torch.no_grad():
            ours = network(source, target)
        theirs = torch.stack([by_hand(network, [w for w in row if w], words)
                              for row, words in zip(source.tolist(), target.tolist(), strict=True)])
        worst = max(worst, apart(ours, theirs))
    return worst


def of(module: ModuleType, difference: Callable[[Variant[Any]], float], reference: str, *,
       how: Literal["package", "property"] = "package") -> list[Proof]:
    """One proof for each entry of a module."""
    return [Proof(name=name, how=how, reference=reference, difference=partial(difference, entry))
            for name, entry in vars(module).items() if isinstance(entry, Variant)]


PROOFS = [
    *of(transformer, partial(beside_torch, norm_first=False),
        "torch.nn.TransformerEncoder and Decoder without their last norms, whole and step by step, 2 sizes"),
    *of(pre_norm, partial(beside_torch, norm_first=True),
        "torch.nn.TransformerEncoder and Decoder, norm_first, whole and step by step, 2 sizes"),
    *of(bert, beside_bert, "transformers BertForPreTraining, 2 sizes"),
    *of(gpt, beside_gpt2, "transformers GPT2LMHeadModel, whole and step by step, 2 sizes"),
    *of(seq2seq, beside_gru, "torch.nn.GRU and GRUCell with diagonal candidates, 2 sizes"),
    *of(seq2seq, beside_equations, "the equations of appendix A, word by word, 2 sizes",
        how="property"),
]
