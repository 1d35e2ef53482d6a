"""Linformer, linear, Performer, clustered and long-short range attention against their official code and formulas."""
from collections.abc import Callable, Mapping
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from tests.attention.proof import GOLDEN, Proof, apart, draw
from vitrail.attention.clustered import ClusteredAttention, ImprovedClusteredAttention, starts
from vitrail.attention.linear import CausalLinearAttention, LinearAttention, attend_linear, attend_linear_masked, step
from vitrail.attention.linformer import Compress, Linformer
from vitrail.attention.long_short_range import DynamicConvolution, LightweightConvolution, LongShortRange, slide
from vitrail.attention.performer import Performer, attend_features, exponent
from vitrail.testing.golden import read_golden
from vitrail.testing.noise import fill_

State = Mapping[str, Tensor]
M = TypeVar("M", bound=nn.Module)
DOUBLE = torch.float64


def carry(module: nn.Module, state: State, prefix: str, names: Mapping[str, tuple[str, ...]]) -> nn.Module:
    """`module` with the official tensors below `prefix`: for each part of ours those of theirs that it holds, stacked.
    What `names` does not mention stays as it is."""
    for ours, theirs in names.items():
        for name, tensor in module.get_submodule(ours).named_parameters(recurse=False):
            tensor.data = torch.cat([state[f"{prefix}.{t}.{name}"] for t in theirs]).view_as(tensor)
    return module.eval()


def noisy(module: M) -> M:
    """Filled with seeded noise, in float64; planes stay as they were drawn."""
    fill_(module, keep=("*.planes",))
    return module.to(DOUBLE)


def worst(pairs: list[tuple[Tensor, Tensor]]) -> float:
    return max(apart(ours, theirs) for ours, theirs in pairs)


# ---------------------------------------------------------------------------------------------------- Linformer

@torch.no_grad()
def linformer_official() -> float:
    """Keys and values apart, shared, and shared with other layers; at the length it is born for, and a shorter one."""
    golden, pairs = read_golden(GOLDEN / "linformer.safetensors"), []
    parts = {"q.proj": ("q_proj",), "k.proj": ("k_proj",), "v.proj": ("v_proj",), "out.proj": ("out_proj",)}
    layer = Compress(24, 5)
    for form, keys, values in (("two", Compress(24, 6), Compress(24, 6)), ("one", Compress(24, 6), None),
                               ("layer", layer, layer)):
        own = {"keys": ("compress_k",), **({"values": ("compress_v",)} if values not in (None, keys) else {})}
        module = carry(Linformer(12, 3, keys=keys, values=values), golden.state, form, {**parts, **own})
        pairs += [(module(x), golden.outputs[f"{form}.{n}"]) for n, x in golden.inputs.items()]
    return worst(pairs)


@torch.no_grad()
def linformer_is_attention() -> float:
    """With E = F = 1 nothing is compressed, and what is left is attention over all tokens."""
    pairs = []
    for n in (12, 35):
        ours = noisy(Linformer(12, 3, keys=Compress(n, n)))
        ours.keys.weight.copy_(torch.eye(n))
        theirs = nn.MultiheadAttention(12, 3, batch_first=True, dtype=DOUBLE)
        theirs.in_proj_weight.copy_(torch.cat([p.proj.weight for p in (ours.q, ours.k, ours.v)]))
        theirs.in_proj_bias.copy_(torch.cat([p.proj.bias for p in (ours.q, ours.k, ours.v)]))
        theirs.out_proj.load_state_dict(ours.out.proj.state_dict())
        x = draw(2, n, 12, dtype=DOUBLE)
        pairs.append((ours(x), theirs(x, x, x)[0]))
    return worst(pairs)


# ---------------------------------------------------------------------------------------------------- linear

PROJECTIONS = {"qkv.proj": ("query_projection", "key_projection", "value_projection"), "out.proj": ("out_projection",)}


@torch.no_grad()
def linear_official() -> float:
    golden = read_golden(GOLDEN / "linear_attention.safetensors")
    module = carry(LinearAttention(12, 3), golden.state, "all", PROJECTIONS)
    return worst([(module(x), golden.outputs[f"all.{n}"]) for n, x in golden.inputs.items()])


@torch.no_grad()
def causal_official() -> float:
    """In one piece and token by token, against the official parallel and recurrent form."""
    golden, pairs = read_golden(GOLDEN / "linear_attention.safetensors"), []
    module = carry(CausalLinearAttention(12, 3, chunk=16), golden.state, "causal", PROJECTIONS)
    assert isinstance(module, CausalLinearAttention)
    for n, x in golden.inputs.items():
        state, steps = None, []
        for token in x.unbind(1):
            answer, state = module.step(token, state)
            steps.append(answer)
        pairs += [(module(x), golden.outputs[f"causal.{n}"]),
                  (torch.stack(steps, 1), golden.outputs[f"recurrent.{n}"])]
    return worst(pairs)


def explicit(q: Tensor, k: Tensor, v: Tensor, *, causal: bool) -> Tensor:
    """Equations 4 and 8 as they stand, with weights of N x N."""
    def phi(x: Tensor) -> Tensor:
        return torch.where(x > 0, x + 1, x.exp())
    weights = torch.einsum("bhnd,bhmd->bhnm", phi(q), phi(k))
    weights = weights.tril() if causal else weights
    return torch.einsum("bhnm,bhmd->bhnd", weights / (weights.sum(-1, keepdim=True) + 1e-6), v)


def linear_explicit() -> float:
    return worst([(attend_linear(*qkv), explicit(*qkv, causal=False))
                  for qkv in (draw(3, 2, 3, n, 5, dtype=DOUBLE).unbind() for n in (7, 1100))])


def causal_explicit() -> float:
    """N x N, in chunks (one, several, many segments; whole and broken), and as a recurrent network."""
    pairs = []
    for n, chunk in ((7, 64), (130, 64), (50, 1), (2200, 96)):
        q, k, v = draw(3, 1, 2, n, 5, dtype=DOUBLE).unbind()
        expected = explicit(q, k, v, causal=True)
        ours, left = attend_linear_masked(q, k, v, chunk=chunk)
        pairs.append((ours, expected))
        state, steps = None, []
        for token in range(n):
            answer, state = step(q[:, :, token], k[:, :, token], v[:, :, token], state)
            steps.append(answer)
        assert state is not None
        pairs += [(torch.stack(steps, 2), expected), (left.memory, state.memory), (left.norm, state.norm)]
    return worst(pairs)


# ---------------------------------------------------------------------------------------------------- Performer

@torch.no_grad()
def performer_official() -> float:
    golden, pairs = read_golden(GOLDEN / "performer.safetensors"), []
    module = Performer(24, 3, count=19)
    module.directions.copy_(golden.inputs["directions"])
    for n in golden.outputs:
        q, k, v = (golden.inputs[f"{part}.{n}"].transpose(1, 2) for part in "qkv")
        ours = attend_features(module.features(q, (-1,)), module.features(k, (-2, -1)), v)
        pairs.append((ours.transpose(1, 2), golden.outputs[n]))
    return worst(pairs)


@torch.no_grad()
def performer_explicit() -> float:
    """The whole module, head by head with weights of N x N, and what cancels in the quotient left in."""
    pairs = []
    for n, count in ((7, 3), (40, 21)):
        module, x = Performer(12, 3, count=count).to(DOUBLE), draw(2, n, 12, dtype=DOUBLE)
        projected = x @ module.qkv.proj.weight.T + module.qkv.proj.bias
        q, k, v = projected.unflatten(-1, (3, 3, 4)).unbind(2)
        heads = []
        for h in range(3):
            features = []
            for part, axes in ((q, (2,)), (k, (1, 2))):
                part = part[:, :, h] / 2 ** 0.5                         # the fourth root of D = 4
                along = torch.einsum("bnd,md->bnm", part, module.directions)
                largest = along.amax(axes, keepdim=True)
                half = part.norm(dim=-1, keepdim=True) ** 2 / 2
                features.append((torch.exp(along - half - largest) + 1e-6) / count ** 0.5)
            weights = features[0] @ features[1].mT
            heads.append(weights / weights.sum(-1, keepdim=True) @ v[:, :, h])
        pairs.append((module(x), module.out.proj(torch.cat(heads, -1))))
    return worst(pairs)


def performer_kernel() -> float:
    """Lemma 1 with the average over all normal directions as a Gauss-Hermite sum in two dimensions."""
    at, weight = np.polynomial.hermite_e.hermegauss(60)
    nodes = torch.cartesian_prod(torch.tensor(at), torch.tensor(at))
    shares = torch.outer(torch.tensor(weight), torch.tensor(weight)).flatten() / (2 * np.pi)
    x, y = draw(2, 30, 2, dtype=DOUBLE).unbind()

    def features(t: Tensor) -> Tensor:
        along, half = exponent(t, nodes)
        return torch.exp(along - half)
    return apart((features(x) * shares) @ features(y).mT, torch.exp(x @ y.mT))


# ---------------------------------------------------------------------------------------------------- clustered

Clustering = ClusteredAttention | ImprovedClusteredAttention


@torch.no_grad()
def clustered_official(form: str, module: Clustering) -> float:
    golden = read_golden(GOLDEN / "clustered.safetensors")
    carry(module, golden.state, form, PROJECTIONS)
    module.clusters.planes.copy_(golden.inputs["planes"])
    sizes = [n for n in golden.inputs if n.isdigit()]
    assert all(torch.equal(starts(int(n), 5, golden.inputs[n]), golden.inputs[f"starts.{n}"]) for n in sizes)
    return worst([(module(golden.inputs[n]), golden.outputs[f"{form}.{n}"]) for n in sizes])


@torch.no_grad()
def is_softmax(build: Callable[[int], Clustering]) -> float:
    """Built for n tokens so that nothing is left out, it is attention over all tokens. Where that takes a cluster for
    each query, their hashes must differ: the queries are made large and the hashes long."""
    pairs = []
    for n in (16, 35):
        module, x = noisy(build(n)), 3 * draw(2, n, 12, dtype=DOUBLE)
        q, k, v = module.qkv(x)
        weights = torch.einsum("bhnd,bhmd->bhnm", q, k).div(q.shape[-1] ** 0.5).softmax(-1)
        pairs.append((module(x), module.out(torch.einsum("bhnm,bhmd->bhnd", weights, v))))
    return worst(pairs)


@torch.no_grad()
def improved_query_by_query() -> float:
    """Section 3.3 as it stands, for one query after the other."""
    pairs = []
    for n, clusters, top in ((30, 4, 5), (49, 7, 1), (21, 30, 8), (40, 1, 40)):
        module = noisy(ImprovedClusteredAttention(12, 3, clusters=clusters, top=top))
        x = draw(2, n, 12, seed=n, dtype=DOUBLE)
        q, k, v = module.qkv(x)
        index, expected = module.clusters(q), torch.empty_like(q)
        for b, h, i in torch.cartesian_prod(torch.arange(2), torch.arange(3), torch.arange(n)).tolist():
            members = index[b, h] == index[b, h, i]
            centre = q[b, h, members].mean(0)
            weights = (k[b, h] @ centre / 2).softmax(0)                 # D is 4
            best = weights.topk(min(top, n)).indices
            share = weights[best].sum()
            weights[best] = share * (k[b, h, best] @ q[b, h, i] / 2).softmax(0)
            expected[b, h, i] = weights @ v[b, h]
        pairs.append((module(x), module.out(expected)))
    return worst(pairs)


# ---------------------------------------------------------------------------------------------------- long-short range

@torch.no_grad()
def long_short_official() -> float:
    """Both kinds of convolution; a sequence longer and one shorter than the taps."""
    golden, pairs = read_golden(GOLDEN / "long_short_range.safetensors"), []
    attention = {"qkv.proj": tuple(f"branches.0.{p}_proj" for p in "qkv"), "out.proj": ("branches.0.out_proj",)}
    ends = {"local.into": ("branches.1.linear1",), "local.out": ("branches.1.linear2",)}
    dynamic = LongShortRange(20, 2, local=DynamicConvolution(12, 3, taps=7), width=12)
    carry(dynamic, golden.state, "dynamic", {**attention, **ends, "local.taps": ("branches.1.weight_linear",)})
    light = LightweightConvolution(12, 3, taps=7)
    light.taps.copy_(golden.state["lightweight.branches.1.weight"])
    lightweight = LongShortRange(20, 2, local=light, width=12)
    carry(lightweight, golden.state, "lightweight", {**attention, **ends})
    for n, x in golden.inputs.items():
        pairs += [(dynamic(x), golden.outputs[f"dynamic.{n}"]), (lightweight(x), golden.outputs[f"lightweight.{n}"])]
    return worst(pairs)


def slide_tap_by_tap() -> float:
    """The band matrices against one pass a tap, odd and even, longer and shorter than the sequence."""
    pairs = []
    for n, k in ((10, 1), (23, 3), (12, 4), (5, 31)):
        x, taps = draw(2, n, 6, dtype=DOUBLE), draw(2, n, 3, k, seed=1, dtype=DOUBLE)
        expected = torch.zeros_like(x).unflatten(2, (3, 2))
        for i in range(n):
            for j in range(k):
                if 0 <= (at := i + j - (k - 1) // 2) < n:
                    expected[:, i] += taps[:, i, :, j, None] * x.unflatten(2, (3, 2))[:, at]
        pairs.append((slide(x, taps), expected.flatten(2)))
    return worst(pairs)


PROOFS = [
    Proof(name="linformer", how="golden", reference="fairseq's MultiheadLinearAttention, 3 ways of sharing, 2 lengths",
          difference=linformer_official),
    Proof(name="linformer", how="package", reference="torch.nn.MultiheadAttention where E = F = 1, 2 lengths, float64",
          difference=linformer_is_attention, tolerance=1e-12),
    Proof(name="linear_attention", how="golden", reference="the official LinearAttention, 2 lengths",
          difference=linear_official),
    Proof(name="linear_attention", how="property",
          reference="explicit N x N weights, in one segment and in two, float64", difference=linear_explicit,
          tolerance=1e-12),
    Proof(name="causal_linear_attention", how="golden",
          reference="the official CausalLinearAttention and RecurrentLinearAttention, 2 lengths",
          difference=causal_official),
    Proof(name="causal_linear_attention", how="property",
          reference="explicit, chunked and recurrent form agree, 4 lengths, float64", difference=causal_explicit,
          tolerance=1e-12),
    Proof(name="performer", how="golden", reference="the official softmax kernel and its quotient, 2 lengths",
          difference=performer_official),
    Proof(name="performer", how="property", reference="explicit N x N weights, 2 shapes, float64",
          difference=performer_explicit, tolerance=1e-12),
    Proof(name="performer", how="property", reference="lemma 1 by Gauss-Hermite quadrature, float64",
          difference=performer_kernel, tolerance=1e-12),
    Proof(name="clustered_attention", how="golden", reference="the official ClusteredAttention, 2 lengths",
          difference=lambda: clustered_official("plain", ClusteredAttention(12, 3, clusters=5, rounds=4, bits=31))),
    Proof(name="clustered_attention", how="property", reference="softmax where clusters = N, 2 lengths, float64",
          difference=lambda: is_softmax(lambda n: ClusteredAttention(12, 3, clusters=n, bits=999)), tolerance=1e-12),
    Proof(name="improved_clustered_attention", how="golden",
          reference="the official ImprovedClusteredAttention, 2 lengths",
          difference=lambda: clustered_official(
              "improved", ImprovedClusteredAttention(12, 3, clusters=5, top=6, rounds=4, bits=31))),
    Proof(name="improved_clustered_attention", how="property",
          reference="softmax where all keys are asked again, 2 lengths, float64",
          difference=lambda: is_softmax(lambda n: ImprovedClusteredAttention(12, 3, clusters=3, top=n)),
          tolerance=1e-12),
    Proof(name="improved_clustered_attention", how="property",
          reference="the formula query by query, 4 shapes, float64", difference=improved_query_by_query,
          tolerance=1e-12),
    Proof(name="long_short_range", how="golden",
          reference="Lite Transformer's MultiBranch with both convolutions, 2 lengths", difference=long_short_official),
    Proof(name="long_short_range", how="property", reference="the convolution tap by tap, 4 shapes, float64",
          difference=slide_tap_by_tap, tolerance=1e-12),
]
