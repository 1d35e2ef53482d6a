"""Exact claims about sums: two ways to add up attention, the cheapest assignment, relevance that is passed on."""
import itertools

import torch
from torch import Tensor

from vitrail.attention.linear import EPS, State, attend_linear, attend_linear_masked, features, step
from vitrail.evidence.claims.claim import Outcome
from vitrail.evidence.exact.exactness import EXACT, apart, bars, draw, seeds, worst
from vitrail.ops.matching import assign


def explicit(q: Tensor, k: Tensor, v: Tensor, *, causal: bool) -> Tensor:
    """Linear attention by its N x N weights: (*B, N, D)."""
    weights = features(q) @ features(k).mT
    weights = weights.tril() if causal else weights
    return (weights / (weights.sum(-1, keepdim=True) + EPS)) @ v


def prefix_sums(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal linear attention by a D x D sum for every token (equations 9 to 12): (*B, N, D)."""
    memory = (features(k)[..., :, None] * v[..., None, :]).cumsum(-3)               # (B, H, N, D, D)
    norm = features(k).cumsum(-2)                                                   # (B, H, N, D)
    mixed = (features(q)[..., None, :] @ memory)[..., 0, :]
    return mixed / ((features(q) * norm).sum(-1, keepdim=True) + EPS)


def recurrent(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The same, a token at a time, as a recurrent network: (B, H, N, D)."""
    state: State | None = None
    answers = []
    for token in zip(q.unbind(2), k.unbind(2), v.unbind(2), strict=True):
        answer, state = step(*token, state)
        answers.append(answer)
    return torch.stack(answers, 2)


@torch.no_grad()
def linear_forms(smoke: bool) -> Outcome:
    """The O(N) forms against the O(N²) weights, the prefix sums and the recurrence, at five lengths."""
    found: dict[str, list[float]] = {}
    lengths = (1, 65) if smoke else (1, 7, 64, 257, 1500)
    for n in lengths:
        for seed in seeds(smoke):
            q, k, v = (draw(2, 2, n, 8, seed=3 * seed + i) for i in range(3))
            chunked = attend_linear_masked(q, k, v)[0]
            for name, ours, theirs in (
                    ("linear, against its N x N weights", attend_linear(q, k, v), explicit(q, k, v, causal=False)),
                    ("causal, against its N x N weights", chunked, explicit(q, k, v, causal=True)),
                    ("causal, against prefix sums", chunked, prefix_sums(q, k, v)),
                    ("causal, against its recurrence", chunked, recurrent(q, k, v))):
                found.setdefault(name, []).append(apart(ours, theirs))
    numbers = {name: worst(all_) for name, all_ in found.items()}
    return Outcome(
        held=worst(numbers.values()) <= EXACT, numbers={"apart": numbers, "lengths": list(lengths), "limit": EXACT},
        finding=f"All forms agree to within {worst(numbers.values()):.0e} at every length up to {lengths[-1]:,} "
                "tokens.", figure=bars(numbers, title="largest difference, over the outputs' deviation"))


def cheapest(cost: Tensor) -> Tensor:
    """The least total of costs (B, N, M), N <= M, by trying every assignment: (B,)."""
    n, m = cost.shape[1:]
    ways = torch.tensor(list(itertools.permutations(range(m), n)))                  # (P, n)
    return cost[:, torch.arange(n), ways].sum(-1).amin(1)


def matcher(smoke: bool) -> Outcome:
    """The solver against all assignments: every 3 x 3 table of 0, 1 and 2, and random ones up to 6 x 6."""
    numbers, gaps = {}, []
    side, values = (2, 3) if smoke else (3, 3)
    tables = torch.tensor(list(itertools.product(range(values), repeat=side * side)), dtype=torch.float64)
    gaps.append(_gap(tables.view(-1, side, side)))
    numbers["every table"] = {"tables": len(tables), "values": values, "side": side, "largest_gap": gaps[-1]}
    most = 3 if smoke else 6
    for seed in seeds(smoke):
        sizes = itertools.product(range(1, most + 1), repeat=2)
        gaps.extend(_gap(draw(20, n, m, seed=100 * seed + 10 * n + m)) for n, m in sizes)
    numbers["random"] = {"tables": 20 * (len(gaps) - 1), "largest_gap": worst(gaps[1:])}
    return Outcome(
        held=worst(gaps) <= 1e-12, numbers={**numbers, "limit": 1e-12},
        finding=f"On {len(tables):,} tables of small whole numbers and {numbers['random']['tables']:,} random ones "
                f"(up to {most} x {most}) the solver's total is the least of all, to within "
                f"{worst(gaps):.0e}.")


def _gap(costs: Tensor) -> float:
    """How far the solver's totals lie from the least, at most; nan where an answer is no assignment at all."""
    n, m = costs.shape[1:]
    totals = []
    for cost in costs:
        rows, columns = assign(cost)
        pairs = len(set(rows.tolist())) == len(set(columns.tolist())) == len(rows) == min(n, m)
        totals.append(cost[rows, columns].sum() if pairs else cost.new_tensor(torch.nan))
    return float((torch.stack(totals) - cheapest(costs if n <= m else costs.mT)).abs().max())


RUNS = {"linear_forms": linear_forms, "matcher": matcher}
