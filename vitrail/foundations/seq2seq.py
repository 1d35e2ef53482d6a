"""RNNsearch: before each word, a recurrent decoder looks over the whole source sentence: attention begins here.

Bahdanau, Cho, Bengio, ICLR 2015, arXiv:1409.0473. Equation numbers and sizes are those of its appendix A.
"""
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from vitrail.core.card import Idea, Paper, TextFigures, variant
from vitrail.nn import Softmax, TokenSets, padding

PAPER = Paper(title="Neural Machine Translation by Jointly Learning to Align and Translate", arxiv="1409.0473",
              authors="Bahdanau et al.", year=2015, venue="ICLR", code="lisa-groundhog/GroundHog",
              ideas=(Idea("rnn_encoder_decoder", "section 2.1", "an encoder and a decoder, and gated units"),
                     Idea("lstm_seq2seq", "section 2.1", "a sentence read, then written"),
                     Idea("bidirectional_rnn", "section 3.2", "reading in both directions"),
                     Idea("handwriting", "section 6.1", "a soft window over the text")))
TASKS = ["translation"]


class GatedCell(nn.Module):
    """A gated recurrent unit: what it reads, projected (B, 3n), and its state (B, n) -> its next state (B, n).

    The reset gate falls on the state before the candidate's product, as in the paper; torch.nn.GRU has it after, and
    its update gate says how much to keep, not how much to renew.
    """

    def __init__(self, hidden: int):
        super().__init__()
        self.gates, self.candidate = nn.Linear(hidden, 2 * hidden, bias=False), nn.Linear(hidden, hidden, bias=False)

    def forward(self, x: Tensor, state: Tensor) -> Tensor:
        n = state.shape[-1]
        renew, reset = (x[:, :2 * n] + self.gates(state)).sigmoid().chunk(2, -1)        # (B, n)
        new = (x[:, 2 * n:] + self.candidate(reset * state)).tanh()                     # (B, n)
        return state + renew * (new - state)


class Reader(nn.Module):
    """One direction of the encoder: embedded words (B, S, m), which of them are real (B, S, 1) -> states (B, S, n).

    Padding leaves the state as it was, so a reader that comes from the right begins at the last real word.
    """

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.input, self.cell = nn.Linear(dim, 3 * hidden), GatedCell(hidden)

    def forward(self, x: Tensor, real: Tensor) -> Tensor:
        state, states = x.new_zeros(x.shape[0], self.input.out_features // 3), []
        for word, counts in zip(self.input(x).unbind(1), real.unbind(1), strict=True):
            state = torch.where(counts, self.cell(word, state), state)
            states.append(state)
        return torch.stack(states, 1)


class AdditiveAttention(nn.Module):
    """Σ_j α_ij h_j, α_i = softmax_j(v · tanh(W s + U h_j)): a state (B, n) asks annotations (B, S, 2n).

    `keys` are U h (B, S, n), which no step changes; `pads` (B, 1, 1, S) is added to the scores -> (B, 2n).
    """

    def __init__(self, hidden: int):
        super().__init__()
        self.query, self.key = nn.Linear(hidden, hidden), nn.Linear(2 * hidden, hidden, bias=False)
        self.score, self.softmax = nn.Linear(hidden, 1, bias=False), Softmax()
        self.token_sets = TokenSets("target", "source", stepwise=True)

    def forward(self, state: Tensor, annotations: Tensor, keys: Tensor, pads: Tensor) -> Tensor:
        scores = self.score((self.query(state)[:, None] + keys).tanh())     # (B, S, 1)
        weights = self.softmax(scores.mT[:, None] + pads)                   # (B, 1, 1, S)
        return (weights[:, 0] @ annotations)[:, 0]


@dataclass(frozen=True)
class Translating:
    """What the decoder keeps between steps: its state (B, n); and of the source the annotations (B, S, 2n), their keys
    (B, S, n) and the mask of the padding (B, 1, 1, S)."""

    state: Tensor
    annotations: Tensor
    keys: Tensor
    pads: Tensor

    def take(self, rows: Tensor) -> "Translating":
        """The state of these rows of the batch, in this order; a row may come several times."""
        return Translating(self.state[rows], self.annotations[rows], self.keys[rows], self.pads[rows])


class Seq2Seq(nn.Module):
    """A reader from each side, and a decoder that attends to both and answers through `maxout` pairs of units.

    source (B, S), target (B, T) -> logits (B, T, V). An answer is made of the state *before* the word it follows is
    taken in, of that word, and of what attention found (A.2.2).
    """

    def __init__(self, *, vocabulary: int = 30000, pad: int = 0, dim: int = 620, hidden: int = 1000, maxout: int = 500):
        super().__init__()
        self.vocabulary, self.pad = vocabulary, pad
        self.source, self.target = nn.Embedding(vocabulary, dim), nn.Embedding(vocabulary, dim)
        self.forwards, self.backwards = Reader(dim, hidden), Reader(dim, hidden)
        self.first, self.attend = nn.Linear(hidden, hidden), AdditiveAttention(hidden)
        self.input, self.context = nn.Linear(dim, 3 * hidden), nn.Linear(2 * hidden, 3 * hidden, bias=False)
        self.cell = GatedCell(hidden)
        self.word_out, self.state_out = nn.Linear(dim, 2 * maxout), nn.Linear(hidden, 2 * maxout, bias=False)
        self.context_out = nn.Linear(2 * hidden, 2 * maxout, bias=False)
        self.out = nn.Linear(maxout, vocabulary)
        self._init_weights()

    def _init_weights(self) -> None:
        """Recurrent matrices orthogonal, the alignment's near or at 0, all others small, biases 0 (B.1)."""
        for name, parameter in self.named_parameters():
            nn.init.zeros_(parameter) if name.endswith("bias") else nn.init.normal_(parameter, std=0.01)
        for cell in (self.forwards.cell, self.backwards.cell, self.cell):
            for matrix in (*cell.gates.weight.data.chunk(2), cell.candidate.weight):
                nn.init.orthogonal_(matrix)
        nn.init.normal_(self.attend.query.weight, std=0.001)
        nn.init.normal_(self.attend.key.weight, std=0.001)
        nn.init.zeros_(self.attend.score.weight)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """source (B, S), target (B, T) that begins with the start token -> logits (B, T, V) of what follows each."""
        state, answers = self.begin(source), []
        for word in self.target(target).unbind(1):
            answer, state = self.advance(word, state)
            answers.append(answer)
        return self.out(torch.stack(answers, 1))

    def begin(self, source: Tensor) -> Translating:
        """The state before the start token, after source (B, S)."""
        x = self.source(source)                                             # (B, S, m)
        real = (source != self.pad)[..., None]                              # (B, S, 1)
        back = self.backwards(x.flip(1), real.flip(1)).flip(1)              # (B, S, n)
        annotations = torch.cat([self.forwards(x, real), back], -1)
        return Translating(self.first(back[:, 0]).tanh(), annotations, self.attend.key(annotations),
                           padding(source, self.pad, like=x))

    def step(self, tokens: Tensor, state: Translating) -> tuple[Tensor, Translating]:
        """The latest token of each text (B,) -> logits (B, V) of the next one, and the state after it."""
        answer, state = self.advance(self.target(tokens), state)
        return self.out(answer), state

    def advance(self, word: Tensor, state: Translating) -> tuple[Tensor, Translating]:
        """The latest word, embedded (B, m) -> the maxout units (B, maxout) that answer, and the state after it."""
        found = self.attend(state.state, state.annotations, state.keys, state.pads)                 # (B, c)
        units = self.state_out(state.state) + self.word_out(word) + self.context_out(found)
        after = self.cell(self.input(word) + self.context(found), state.state)                      # (B, n)
        return units.unflatten(-1, (-1, 2)).max(-1).values, replace(state, state=after)


seq2seq_tiny = variant(Seq2Seq, TextFigures(params=289_088, gflops=0.009, length=32),
                       vocabulary=64, dim=64, hidden=96, maxout=64)
seq2seq_attention = variant(Seq2Seq, TextFigures(params=80_443_000, gflops=2.119, length=50))
