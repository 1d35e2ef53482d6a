"""Mechanisms over the whole map: non-local, criss-cross, SAGAN's, talking heads, re-attention, k-NN attention."""
import itertools
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from tests.attention.proof import GOLDEN, Proof, apart, draw
from vitrail.attention.criss_cross import CrissCross, RecurrentCrissCross
from vitrail.attention.knn import KnnAttention
from vitrail.attention.non_local import Concat, Dot, Embedded, Gaussian, NonLocal, non_local_block
from vitrail.attention.re_attention import ReAttention
from vitrail.attention.sagan import Sagan
from vitrail.attention.talking_heads import TalkingHeads
from vitrail.core.torchvision_guard import import_torchvision
from vitrail.nn import Residual
from vitrail.testing.golden import read_golden
from vitrail.testing.noise import fill_

import_torchvision()

from timm.layers import NonLocalAttn  # noqa: E402
from timm.models.cait import TalkingHeadAttn  # noqa: E402
from timm.models.vision_transformer import Attention  # noqa: E402

QKV = {"qkv.weight": "qkv.proj.weight", "qkv.bias": "qkv.proj.bias", "proj.weight": "out.proj.weight",
       "proj.bias": "out.proj.bias"}


def load(module: nn.Module, state: Mapping[str, Tensor], names: Mapping[str, str]) -> None:
    """Every tensor of ours from one of theirs, whose 1 x 1 convolutions are matrices here."""
    own = module.state_dict()
    module.load_state_dict({ours: state[theirs].reshape(own[ours].shape) for theirs, ours in names.items()})


def worst(differences: Iterable[float]) -> float:
    """The largest, and not a number where one of them is not."""
    return float(torch.tensor(list(differences)).max())


def last(x: Tensor) -> Tensor:
    """Channels to the end."""
    return x.movedim(1, -1)


# ---- non-local

BLOCK = {"g.weight": "fn.g.weight", "g.bias": "fn.g.bias", "W.0.weight": "fn.out.weight", "W.0.bias": "fn.out.bias",
         **{f"W.1.{t}": f"scale.{t}" for t in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")}}
THETA = {"theta.weight": "fn.theta.weight", "theta.bias": "fn.theta.bias", "phi.weight": "fn.phi.weight"}
PHI_BIAS = {"phi.bias": "fn.phi.bias"}


def non_local_golden(form: str, make: Callable[[], NonLocal], names: dict[str, str]) -> Callable[[], float]:
    def difference() -> float:
        golden, block = read_golden(GOLDEN / f"non_local_{form}.safetensors"), non_local_block(make(), 16).eval()
        load(block, golden.state, BLOCK | names)
        with torch.no_grad():
            return worst(apart(block(last(x)), last(golden.outputs[k])) for k, x in golden.inputs.items())
    return difference


def embedded_timm() -> float:
    theirs = NonLocalAttn(32, rd_channels=8).eval()
    fill_(theirs)
    ours = non_local_block(Embedded(32, 1, hidden=8, scale=32 ** -0.5), 32).eval()
    names = {"t": "fn.theta", "p": "fn.phi", "g": "fn.g", "z": "fn.out", "norm": "scale"}
    state = theirs.state_dict()
    del state["p.bias"]                                     # which a softmax does not see
    load(ours, state, {k: f"{names[k.partition('.')[0]]}.{k.partition('.')[2]}" for k in state})
    with torch.no_grad():
        return worst(apart(ours(last(x)), last(theirs(x))) for x in (draw(2, 32, 6, 6), draw(1, 32, 9, 5, seed=1)))


Pair = Callable[[NonLocal, Tensor, Tensor], Tensor]


def double_loop(make: Callable[[], NonLocal], pair: Pair, normalised: bool) -> Callable[[], float]:
    """Equations 1 and 6 place by place in float64, with the official order: pool x, then project."""
    def at_size(*shape: int) -> float:
        torch.manual_seed(0)
        ours, x = make().double(), draw(*shape, seed=1, dtype=torch.float64)
        p, h, w = ours.pool, shape[-3], shape[-2]
        expected = torch.zeros_like(x)
        for b in range(shape[0]):
            frames = x[b].reshape(-1, h, w, 8)
            keys = [f[i:i + p, j:j + p].amax((0, 1)) for f in frames
                    for i in range(0, h - p + 1, p) for j in range(0, w - p + 1, p)]
            for at in itertools.product(*map(range, shape[1:-1])):
                f = torch.stack([pair(ours, x[(b, *at)], key) for key in keys])
                f = f.exp() / f.exp().sum() if normalised else f / len(keys)
                y = sum((weight * ours.g(key) for weight, key in zip(f, keys, strict=True)), torch.zeros(()))
                expected[(b, *at)] = ours.out(y)
        return apart(ours(x).detach(), expected.detach())
    return lambda: worst(at_size(*shape) for shape in ((2, 6, 4, 8), (1, 5, 7, 8), (1, 2, 5, 4, 8)))


def of_gaussian(m: NonLocal, a: Tensor, b: Tensor) -> Tensor:
    return a @ b


def of_embedded(m: NonLocal, a: Tensor, b: Tensor) -> Tensor:
    assert isinstance(m, Embedded)
    return m.theta(a) @ m.phi(b) / 2                        # √D, D = 4


def of_dot(m: NonLocal, a: Tensor, b: Tensor) -> Tensor:
    assert isinstance(m, Dot)
    return m.theta(a) @ m.phi(b)


def of_concat(m: NonLocal, a: Tensor, b: Tensor) -> Tensor:
    assert isinstance(m, Concat)
    return (m.w[0] @ torch.cat([m.theta(a), m.phi(b)])).relu()


# ---- criss-cross

def criss_cross_golden(rounds: int) -> Callable[[], float]:
    def difference() -> float:
        golden = read_golden(GOLDEN / "criss_cross.safetensors")
        state = {"gain": golden.state["gamma"][0]}
        for part in ("weight", "bias"):
            three = [golden.state[f"{name}_conv.{part}"].flatten(1 if part == "weight" else 0)
                     for name in ("query", "key", "value")]
            state[f"qkv.{part}"] = torch.cat(three)
        mixer = RecurrentCrissCross(32, 1, rounds=rounds)
        mixer.once.load_state_dict(state)
        layer = Residual(mixer, nn.Identity())
        with torch.no_grad():
            return worst(apart(layer(last(x)), last(golden.outputs[f"{k}.{rounds}"])) for k, x in golden.inputs.items())
    return difference


def criss_cross_dense() -> float:
    """Attention over all places, of which a mask leaves the own row and column, with three heads."""
    def at_size(h: int, w: int) -> float:
        torch.manual_seed(0)
        ours, x = CrissCross(12, 3, hidden=6, gain=0.75).double(), draw(2, h, w, 12, dtype=torch.float64)
        q, k, v = (t.flatten(1, 2).unflatten(-1, (3, -1)).transpose(1, 2) for t in ours.qkv(x).split((6, 6, 12), -1))
        at = torch.arange(h * w)
        crossed = (at[:, None] // w == at // w) | (at[:, None] % w == at % w)
        weights = (q @ k.mT).masked_fill(~crossed, float("-inf")).softmax(-1)
        dense = 0.75 * (weights @ v).transpose(1, 2).flatten(2).view_as(x)
        return apart(ours(x).detach(), dense.detach())
    return worst(at_size(h, w) for h, w in ((5, 6), (7, 3), (1, 4), (4, 1)))


# ---- SAGAN

def sagan_loop() -> float:
    """Place by place in float64, with singular values from a decomposition; ours has followed them for a while."""
    def largest_is_one(linear: nn.Module) -> Tensor:
        weight = linear.get_parameter("parametrizations.weight.original")
        return weight / torch.linalg.svdvals(weight)[0]

    def at_size(h: int, w: int) -> float:
        torch.manual_seed(0)
        ours, x = Sagan(16, 1, gain=0.75).double().train(), draw(2, h, w, 16, dtype=torch.float64)
        for _ in range(200):
            ours(x[:1, :2, :2])
        ours.eval()
        f, g, value, out = (largest_is_one(m) for m in (ours.f, ours.g, ours.h, ours.v))
        expected = torch.zeros_like(x)
        for b in range(2):
            squares = [x[b, i:i + 2, j:j + 2].flatten(0, 1) for i in range(0, h - 1, 2) for j in range(0, w - 1, 2)]
            keys = torch.stack([(s @ g.T).amax(0) for s in squares])
            values = torch.stack([(s @ value.T).amax(0) for s in squares])
            for i, j in itertools.product(range(h), range(w)):
                weights = (keys @ (f @ x[b, i, j])).exp()
                expected[b, i, j] = 0.75 * out @ (weights / weights.sum() @ values)
        return apart(ours(x).detach(), expected.detach())
    return worst(at_size(h, w) for h, w in ((6, 4), (5, 7)))


# ---- mixtures of heads, and k nearest neighbours

def talking_heads_timm() -> float:
    theirs = TalkingHeadAttn(24, num_heads=4, qkv_bias=True).eval()
    fill_(theirs)
    ours = TalkingHeads(24, 4, head_bias=True)
    load(ours, theirs.state_dict(), QKV | {"proj_l.weight": "before.weight", "proj_w.weight": "behind.weight",
                                           "proj_w.bias": "behind.bias"})
    with torch.no_grad():
        return worst(apart(ours(x), theirs(x)) for x in (draw(2, 30, 24), draw(3, 7, 24, seed=1)))


def talking_heads_sums() -> float:
    """The paper's sums over heads, one by one, with 2 heads of queries, 5 of the softmax, 2 of values."""
    torch.manual_seed(0)
    ours = TalkingHeads(8, 2, maps=5).double()

    def at_size(*shape: int) -> float:
        x = draw(*shape, dtype=torch.float64)
        q, k, v = ours.qkv(x)
        scores = [q[:, h] @ k[:, h].mT / 2 for h in range(2)]
        softmaxes = [(ours.before.weight[m, 0] * scores[0] + ours.before.weight[m, 1] * scores[1]).softmax(-1)
                     for m in range(5)]
        spoken = [torch.stack([ours.behind.weight[h, m] * softmaxes[m] for m in range(5)]).sum(0) for h in range(2)]
        expected = ours.out(torch.stack([spoken[h] @ v[:, h] for h in range(2)], 1))
        return apart(ours(x).detach(), expected.detach())
    return worst((at_size(2, 6, 8), at_size(1, 3, 8)))


def re_attention_golden() -> float:
    """In evaluation and, for one input, in training, where the norm takes its figures from the maps themselves."""
    golden, ours = read_golden(GOLDEN / "re_attention.safetensors"), ReAttention(24, 4, qkv_bias=True)
    load(ours, golden.state, QKV | {"reatten_matrix.weight": "theta", "reatten_matrix.bias": "offset"} | {
        f"var_norm.{t}": f"norm.{t}" for t in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")})
    maps: list[Tensor] = []
    ours.shown.register_forward_hook(lambda leaf, args, weights: maps.append(weights))
    with torch.no_grad():
        ours.eval()
        found = [apart(ours(x), golden.outputs[k]) for k, x in golden.inputs.items()]
        found += [apart(m, golden.outputs[f"{k}.maps"]) for k, m in zip(golden.inputs, maps, strict=True)]
        return worst([*found, apart(ours.train()(golden.inputs["a"]), golden.outputs["a.train"])])


def knn_golden() -> float:
    golden, ours = read_golden(GOLDEN / "knn_attention.safetensors"), KnnAttention(24, 4, neighbours=6)
    load(ours, golden.state, QKV)
    with torch.no_grad():
        return worst(apart(ours(x), golden.outputs[k]) for k, x in golden.inputs.items())


def knn_of_all_timm() -> float:
    theirs = Attention(24, num_heads=4, qkv_bias=True).eval()
    fill_(theirs)
    ours = KnnAttention(24, 4, neighbours=30)
    load(ours, theirs.state_dict(), QKV)
    with torch.no_grad():
        return worst(apart(ours(x), theirs(x)) for x in (draw(2, 30, 24), draw(3, 7, 24, seed=1)))


ALEX = "AlexHex7/Non-local_pytorch, maps of 2 sizes and a clip"
LOOP = "double loop over the places, pooled, maps of 2 sizes and a clip"
PROOFS = [
    Proof(name="non_local_gaussian", how="golden", reference=ALEX,
          difference=non_local_golden("gaussian", lambda: Gaussian(16, 1), {})),
    Proof(name="non_local_gaussian", how="property", reference=LOOP,
          difference=double_loop(lambda: Gaussian(8, 1, pool=2), of_gaussian, True)),
    Proof(name="non_local_embedded", how="package", reference="timm NonLocalAttn, 2 sizes", difference=embedded_timm),
    Proof(name="non_local_embedded", how="golden", reference=ALEX,
          difference=non_local_golden("embedded", lambda: Embedded(16, 1, scale=1.0), THETA)),
    Proof(name="non_local_embedded", how="property", reference=LOOP,
          difference=double_loop(lambda: Embedded(8, 1, pool=2), of_embedded, True)),
    Proof(name="non_local_dot", how="golden", reference=ALEX,
          difference=non_local_golden("dot", lambda: Dot(16, 1), THETA | PHI_BIAS)),
    Proof(name="non_local_dot", how="property", reference=LOOP,
          difference=double_loop(lambda: Dot(8, 1, pool=2), of_dot, False)),
    Proof(name="non_local_concat", how="golden", reference=ALEX,
          difference=non_local_golden("concat", lambda: Concat(16, 1),
                                      THETA | PHI_BIAS | {"concat_project.0.weight": "fn.w"})),
    Proof(name="non_local_concat", how="property", reference=LOOP,
          difference=double_loop(lambda: Concat(8, 1, pool=2), of_concat, False)),
    Proof(name="criss_cross", how="golden", reference="speedinghzl/CCNet, 2 sizes", difference=criss_cross_golden(1)),
    Proof(name="criss_cross", how="property", reference="dense attention with a mask, 3 heads, 4 sizes",
          difference=criss_cross_dense),
    Proof(name="recurrent_criss_cross", how="golden", reference="speedinghzl/CCNet, R = 2, 2 sizes",
          difference=criss_cross_golden(2)),
    Proof(name="sagan_attention", how="property", reference="loop over the places and a decomposition, 2 sizes",
          difference=sagan_loop),
    Proof(name="talking_heads", how="package", reference="timm TalkingHeadAttn, 2 sizes",
          difference=talking_heads_timm),
    Proof(name="talking_heads", how="property", reference="sums over heads, unequal numbers of them, 2 sizes",
          difference=talking_heads_sums),
    Proof(name="re_attention", how="golden", reference="zhoudaquan/dvit_repo, 2 sizes, and in training",
          difference=re_attention_golden),
    Proof(name="knn_attention", how="golden", reference="damo-cv/KVT, k of 30 and of 7 tokens", difference=knn_golden),
    Proof(name="knn_attention", how="package", reference="timm Attention, k of all tokens, 2 sizes",
          difference=knn_of_all_timm),
]
