"""Exact claims about order: what does not change, or changes along, when tokens or points change places."""
import torch
from torch import Tensor, nn

from vitrail.attention.offset_attention import OffsetAttention
from vitrail.attention.point_transformer import PointTransformer
from vitrail.evidence.claims.claim import Outcome
from vitrail.evidence.exact.exactness import EXACT, apart, bars, draw, least, noisy, seeds, worst
from vitrail.nn import Chain, Mlp, PositionTable, SelfAttention, transformer_block
from vitrail.positions.sinusoidal import Sinusoidal

DIM, HEADS = 32, 4
SENTENCES = ("Deepak", "is", "the", "son", "of", "Pradeep"), ("Pradeep", "is", "the", "son", "of", "Deepak")
SEEN = 0.01             # of the answers' deviation: what counts as told apart


class Encoder(nn.Module):
    """Two transformer blocks behind a position code, which is nothing where `position` is None."""

    def __init__(self, position: nn.Module | None, *, length: int):
        super().__init__()
        self.position, self.length = position, length
        self.blocks = Chain(*(transformer_block(SelfAttention(DIM, HEADS), DIM, 2.0, 0.0) for _ in range(2)))

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.position, PositionTable):
            x = self.position(x, (1, self.length))
        elif self.position is not None:
            x = self.position(x)
        return self.blocks(x)


def codes(length: int) -> dict[str, nn.Module | None]:
    return {"no positions": None, "sinusoidal": Sinusoidal(DIM), "learned": PositionTable((1, length), DIM)}


@torch.no_grad()
def permutation(smoke: bool) -> Outcome:
    """A layer and an encoder under permutations of 24 tokens, and the two sentences word by word."""
    layer, moved = noisy(SelfAttention(DIM, HEADS)), []
    found: dict[str, list[float]] = {}
    for seed in seeds(smoke):
        x, order = draw(2, 24, DIM, seed=seed), torch.randperm(24, generator=torch.Generator().manual_seed(seed))
        moved.append(apart(layer(x[:, order]), layer(x)[:, order]))
        for name, position in codes(24).items():
            encoder = noisy(Encoder(position, length=24))
            found.setdefault(f"encoder, {name}", []).append(apart(encoder(x[:, order]), encoder(x)[:, order]))
    told = sentences(smoke)
    layers = {"one layer, no positions": worst(moved), **{name: worst(all_) for name, all_ in found.items()}}
    blind = worst([layers["one layer, no positions"], layers["encoder, no positions"], told["no positions"]])
    seeing = least(v for n, v in (layers | told).items() if "no positions" not in n)
    return Outcome(
        held=blind <= EXACT and seeing >= SEEN,
        finding=f"Without positions, outputs move with their tokens to within {blind:.0e}, and each word of the "
                f"sentence is the same vector as in its swap; with positions they differ by {seeing:.2g} at least.",
        numbers={"equivariance": layers, "sentences": told, "limit": EXACT},
        figure=bars({**{f"24 tokens, permuted: {n}": v for n, v in layers.items()},
                     **{f"the two sentences: {n}": v for n, v in told.items()}},
                    title="largest difference, over the outputs' deviation"))


def sentences(smoke: bool) -> dict[str, float]:
    """How far a word's vector in the first sentence lies from the same word's in the second, over all seeds: without
    positions the farthest of any word, with them the nearest of the two words that changed places."""
    words, found = sorted(SENTENCES[0]), {}
    first, second = ([words.index(w) for w in s] for s in SENTENCES)
    for name, position in codes(len(words)).items():
        per_seed = []
        for seed in seeds(smoke):
            embedding = draw(len(words), DIM, seed=seed)
            encoder = noisy(Encoder(position, length=len(words)))
            a, b = encoder(embedding[first][None])[0], encoder(embedding[second][None])[0]
            far = {w: apart(b[second.index(words.index(w))], a[first.index(words.index(w))]) for w in words}
            per_seed.append(worst(far.values()) if position is None else least([far["Deepak"], far["Pradeep"]]))
        found[name] = worst(per_seed) if position is None else least(per_seed)
    return found


@torch.no_grad()
def point_invariance(smoke: bool) -> Outcome:
    """Each point's answer moves with the point; the maximum or mean over the points does not move at all."""
    count = 40 if smoke else 200
    transformer, pct = noisy(PointTransformer(DIM, HEADS)), noisy(OffsetAttention(DIM))
    lift, shared = noisy(nn.Linear(3, DIM)), noisy(Mlp(DIM, 2 * DIM))
    found: dict[str, list[float]] = {}
    for seed in seeds(smoke):
        xyz = draw(2, count, 3, seed=seed)
        order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
        for name, answer in (("Point Transformer", lambda p: transformer(p, lift(p))),
                             ("PCT's offset attention", lambda p: pct(lift(p))),
                             ("PointNet", lambda p: shared(lift(p)))):
            here, there = answer(xyz), answer(xyz[:, order])
            found.setdefault(f"{name}: each point", []).append(apart(there, here[:, order]))
            found.setdefault(f"{name}: maximum over all", []).append(apart(there.amax(1), here.amax(1)))
            found.setdefault(f"{name}: mean over all", []).append(apart(there.mean(1), here.mean(1)))
    numbers = {name: worst(all_) for name, all_ in found.items()}
    return Outcome(
        held=worst(numbers.values()) <= EXACT, numbers={"apart": numbers, "points": count, "limit": EXACT},
        finding=f"Whatever the order of {count} points, all three give each point the same answer, and the whole the "
                f"same pooled one, to within {worst(numbers.values()):.0e}.",
        figure=bars(numbers, title="largest difference between two orders, over the outputs' deviation"))


RUNS = {"permutation": permutation, "point_invariance": point_invariance}
