"""Texts out of a network, token by token: the best at each step, the best of several at once, or drawn by chance."""
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from vitrail.core.errors import SettingsError
from vitrail.tasks.language.vocabulary import CLASS, END, MASK, PAD, SEPARATOR, START, UNKNOWN
from vitrail.tasks.language.model import State

NEVER = (PAD, START, UNKNOWN, MASK, CLASS, SEPARATOR)           # what nobody wants to read


class Writer(Protocol):
    """A network that writes: see `LanguageModel`."""

    def begin(self, source: Any) -> State: ...
    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]: ...


@dataclass(frozen=True)
class Hypothesis:
    """A text that a beam search found: its tokens without the end, and its score, which is to be large."""

    tokens: tuple[int, ...]
    score: float


@torch.no_grad()
def greedy(network: Writer, source: Tensor, *, longest: int) -> list[list[int]]:
    """The likeliest token at each step, for source (B, S), up to the end or to `longest` tokens."""
    state = network.begin(source)
    tokens = source.new_full((len(source),), START)
    done = torch.zeros_like(tokens, dtype=torch.bool)
    written: list[Tensor] = []
    while len(written) < longest and not done.all():
        logits, state = network.step(tokens, state)
        tokens = _open(logits).argmax(-1).masked_fill(done, END)
        done = done | (tokens == END)
        written.append(tokens)
    rows = torch.stack(written, 1).tolist() if written else [[] for _ in source]
    return [row[:row.index(END)] if END in row else row for row in rows]


def length_penalty(length: int, alpha: float) -> float:
    """((5 + length) / 6) ** alpha (Wu et al., arXiv:1609.08144, equation 14), by which a log-probability is divided."""
    return ((5 + length) / 6) ** alpha


@torch.no_grad()
def beam(network: Writer, source: Tensor, *, beams: int, longest: int, alpha: float = 0.6) -> list[list[Hypothesis]]:
    """Beam search for source (B, S): for each row the best texts that ended, at most `beams`, best first.

    Of all ways to go on, the `beams` likeliest that do not end are followed; one that ends is kept where it is among
    the `beams` likeliest ways at all. A text's score is its log-probability over `length_penalty`, its end counted; at
    most `longest` tokens with the end. A row is done when nothing that is still followed can beat its worst kept text.
    Raises SettingsError for fewer than one beam or token.
    """
    if beams < 1 or longest < 1 or alpha < 0:
        raise SettingsError(f"a beam search takes at least one beam and one token, and an alpha of 0 or more: {beams} "
                            f"beams, {longest} tokens, alpha {alpha}")
    rows, device = len(source), source.device
    first = torch.arange(rows, device=device)[:, None] * beams                          # each row's first beam
    state = network.begin(source).take(torch.arange(rows, device=device).repeat_interleave(beams))
    tokens = source.new_full((rows * beams,), START)
    scores = torch.full((rows, beams), -torch.inf, device=device)
    scores[:, 0] = 0                                                                    # the beams begin as one
    written = source.new_empty((rows, beams, 0))
    ended: list[list[Hypothesis]] = [[] for _ in range(rows)]
    done = [False] * rows
    for length in range(1, longest + 1):
        logits, state = network.step(tokens, state)
        steps = _open(logits.float().log_softmax(-1))
        if length == longest:
            steps = _only_end(steps)
        ways = (scores[..., None] + steps.view(rows, beams, -1)).flatten(1)             # (B, beams x V)
        likely, places = ways.topk(min(2 * beams, ways.shape[1]))
        parents, units = places // steps.shape[1], places % steps.shape[1]
        ends = units == END
        penalty = length_penalty(length, alpha)
        for row, rank in (ends[:, :beams] & likely[:, :beams].isfinite()).nonzero().tolist():
            if not done[row]:
                text = tuple(written[row, parents[row, rank]].tolist())
                ended[row].append(Hypothesis(text, likely[row, rank].item() / penalty))
        live = ends.to(torch.int8).argsort(dim=1, stable=True)[:, :beams]               # those that go on, best first
        scores = likely.gather(1, live).masked_fill(ends.gather(1, live), -torch.inf)
        parents, units = parents.gather(1, live), units.gather(1, live)
        written = torch.cat([written.gather(1, parents[..., None].expand(-1, -1, length - 1)), units[..., None]], 2)
        tokens, state = units.flatten(), state.take((first + parents).flatten())
        hope = (scores[:, 0] / length_penalty(longest, alpha)).tolist()                 # the most that can still come
        for row in range(rows):
            ended[row] = sorted(ended[row], key=lambda h: -h.score)[:beams]
            done[row] = done[row] or (len(ended[row]) == beams and hope[row] <= ended[row][-1].score)
        if all(done):
            break
    return ended


@torch.no_grad()
def sample(network: Writer, prompt: Sequence[int], *, count: int, longest: int, window: int, temperature: float = 1.0,
           top: int = 0, seed: int = 0, device: torch.device | str = "cpu") -> list[list[int]]:
    """`count` continuations of a prompt by `longest` tokens each, drawn by chance; the prompt is left out.

    temperature: logits are divided by it; 0 takes the likeliest each time. top: draw from so many of the likeliest
    only, 0: from all. window: the most tokens that the network looks back over; a longer text is gone on with from its
    last half window. The same seed gives the same texts. Raises SettingsError where nothing can be drawn.
    """
    if temperature < 0 or top < 0 or not prompt or count < 1 or window < 1:
        raise SettingsError("to go on with a text takes a text of at least one unit, one continuation, and a "
                            "temperature and a top of 0 or more")
    generator = torch.Generator().manual_seed(seed)
    texts = torch.tensor(list(prompt), device=device).expand(count, -1)
    unread, state, seen = texts[:, -window:], network.begin(count), 0
    for _ in range(longest):
        if seen + unread.shape[1] > window:
            unread, state, seen = texts[:, -max(1, window // 2):], network.begin(count), 0
        for column in unread.unbind(1):
            logits, state = network.step(column, state)
        seen += unread.shape[1]
        unread = _drawn(_open(logits.float()), temperature, top, generator)[:, None]
        texts = torch.cat([texts, unread], 1)
    return texts[:, len(prompt):].tolist()


def _drawn(logits: Tensor, temperature: float, top: int, generator: torch.Generator) -> Tensor:
    """One token a row of logits (B, V), on their device; the numbers are drawn on the processor, alike everywhere."""
    logits = logits.index_fill(1, torch.tensor(END, device=logits.device), -torch.inf)      # running text has no end
    if not temperature:
        return logits.argmax(-1)
    if top:
        least = logits.topk(min(top, logits.shape[1])).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    shares = (logits / temperature).softmax(-1).cpu()
    return torch.multinomial(shares, 1, generator=generator)[:, 0].to(logits.device)


def _open(scores: Tensor) -> Tensor:
    """Scores (B, V) of tokens, the marks that are no text ruled out."""
    return scores.index_fill(1, torch.tensor(NEVER, device=scores.device), -torch.inf)


def _only_end(scores: Tensor) -> Tensor:
    """Scores (B, V) with everything but the end ruled out."""
    ruled = torch.full_like(scores, -torch.inf)
    ruled[:, END] = scores[:, END]
    return ruled
