"""Exact claims about who sees whom."""
import torch
from torch import Tensor, nn

from vitrail.attention.criss_cross import CrissCross, RecurrentCrissCross
from vitrail.evidence.claims.claim import Outcome
from vitrail.evidence.exact.exactness import draw, least, noisy, seeds, worst
from vitrail.foundations.gpt import gpt_tiny
from vitrail.foundations.transformer import transformer_tiny
from vitrail.figures.style import EMBER, make_axes


def reaches(layer: nn.Module, x: Tensor) -> Tensor:
    """(N, N): how strongly each place's answer (row) depends on each place of x (1, h, w, C), by the gradient."""
    h, w = x.shape[1:3]
    many = x.expand(h * w, -1, -1, -1).clone().requires_grad_()
    every = torch.arange(h * w)
    answers = layer(many).flatten(1, 2)[every, every]           # row i of the batch answers for place i alone
    weight = draw(answers.shape[-1], seed=7)
    return torch.autograd.grad((answers @ weight).sum(), many)[0].abs().sum(-1).flatten(1)


def criss_cross_reach(smoke: bool) -> Outcome:
    """Counts, for every place of several maps, the places whose change would change its answer."""
    once, twice = noisy(CrissCross(16, 2, gain=1.0)), noisy(RecurrentCrissCross(16, 2, gain=1.0))
    counts, right = [], True
    for h, w in ((3, 4),) if smoke else ((3, 4), (7, 9), (8, 8), (1, 6)):
        for seed in seeds(smoke):
            x = draw(1, h, w, 16, seed=seed)
            cross, seen, all_ = _cross(h, w), reaches(once, x) > 0, reaches(twice, x) > 0
            right &= bool((seen == cross).all()) and bool(all_.all())
            counts.append({"map": [h, w], "seed": seed, "once": sorted(set(seen.sum(1).tolist())),
                           "h + w - 1": h + w - 1, "twice": sorted(set(all_.sum(1).tolist())), "h w": h * w})
    x = draw(1, 7, 9, 16)
    figure, axes = make_axes(7, 3, 2)
    for place, layer, title in zip(axes, (once, twice), ("one criss-cross", "two"), strict=True):
        strength = reaches(layer, x)[2 * 9 + 3].view(7, 9).log10()             # -inf, which is drawn white, for nothing
        place.imshow(strength, cmap="Blues", vmin=float(strength[strength > -torch.inf].min()) - 1)
        place.plot(3, 2, "o", color=EMBER)
        place.set(title=f"{title}: what reaches the dot", xticks=[], yticks=[])
        place.grid(False)
    return Outcome(
        held=right, numbers={"counts": counts}, figure=figure,
        finding=f"At every place of {len(counts)} maps one criss-cross depends on exactly its own row and column, "
                "h + w - 1 places, and two on every place of the map." if right else
                "Some place depends on other places than its row and column, or not on all of them after two.")


def _cross(h: int, w: int) -> Tensor:
    """(N, N): whether two places share a row or a column."""
    row, column = torch.arange(h).repeat_interleave(w), torch.arange(w).repeat(h)
    return (row[:, None] == row) | (column[:, None] == column)


@torch.no_grad()
def masked(smoke: bool) -> Outcome:
    """Every token after t is exchanged for another, and the answers up to t are compared bit by bit."""
    length = 8 if smoke else 24
    gpt, transformer = noisy(gpt_tiny()), noisy(transformer_tiny())
    before: dict[str, list[float]] = {"GPT": [], "Transformer's decoder": []}
    after: dict[str, list[float]] = {name: [] for name in before}
    picture = torch.zeros(length - 1, length)
    for seed in seeds(smoke):
        generator = torch.Generator().manual_seed(seed)
        tokens, source = (torch.randint(1, 64, (2, length), generator=generator) for _ in range(2))
        other = (tokens + torch.randint(1, 63, (2, length), generator=generator) - 1) % 63 + 1     # never the same
        for name in before:
            def answers(text: Tensor, name: str = name, source: Tensor = source) -> Tensor:
                return gpt(text) if name == "GPT" else transformer(source, text)
            here = answers(tokens)
            for t in range(length - 1):
                there = answers(torch.cat([tokens[:, :t + 1], other[:, t + 1:]], 1))
                change = (there - here).abs().amax((0, 2)) / here.std()
                before[name].append(worst(change[:t + 1].tolist()))
                after[name].append(least(change[t + 1:].tolist()))
                if name == "GPT" and seed == 0:
                    picture[t] = change
    figure, (axes,) = make_axes(4.6, 4)
    axes.imshow(picture.where(picture > 0, torch.nan), cmap="Oranges", vmin=0)
    axes.set(xlabel="place of the answer", ylabel="last token that stayed", title="GPT: change of the answers")
    axes.grid(False)
    numbers = {name: {"largest change up to t": worst(before[name]), "smallest change after t": least(after[name])}
               for name in before}
    kept, changed = worst(n["largest change up to t"] for n in numbers.values()), least(
        n["smallest change after t"] for n in numbers.values())
    return Outcome(
        held=kept <= 1e-12 and changed > 1e-6, numbers={"models": numbers, "tokens": length, "limit": 1e-12},
        figure=figure, finding=f"With every token after t exchanged, the answers up to t change by {kept:.1g} of their "
        f"deviation at most, in GPT and in the Transformer's decoder, and every answer after t by {changed:.2g} at "
        "least.")


RUNS = {"criss_cross_reach": criss_cross_reach, "masked": masked}
