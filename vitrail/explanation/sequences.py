"""What the tokens that a network produces rest on: `explain_tokens`, for translators, decoders and encoders of text."""
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from vitrail.core.errors import ExplainError, did_you_mean
from vitrail.core.files import atomic_file
from vitrail.explanation import drawing
from vitrail.explanation.explained import slopes
from vitrail.explanation.methods import evaluating, weighted
from vitrail.explanation.record import Layer, record
from vitrail.explanation.relations import Matrices, join_steps, relate, relevance_rule, rollout_rule
from vitrail.explanation.tokens import attended

METHODS = ("relevance", "rollout", "attention")


@dataclass(frozen=True, kw_only=True)
class TokenTarget:
    """One thing to explain.

    value:  what the score takes, such as a place of the output and the token produced there.
    tokens: the set of tokens that it is read off, such as "target" of a translator; index: which one of them.
    name:   in words, for the drawing.
    """

    value: Any
    tokens: str
    index: int
    name: str = ""


@dataclass(frozen=True, eq=False, kw_only=True)
class TokenExplanation:
    """What each target rests on.

    relevance: for each set of tokens float32 (T, N): how much each of T targets holds of each of its N tokens.
    tokens:    the names of these tokens, set by set.
    scores:    float32 (T,), the score of each target.
    """

    ARRAYS = ".json"                    # the suffix under which `save` writes the numbers themselves

    method: str
    targets: tuple[TokenTarget, ...]
    scores: NDArray[np.float32] = field(repr=False)
    relevance: Mapping[str, NDArray[np.float32]] = field(repr=False)
    tokens: Mapping[str, tuple[str, ...]]

    def summary(self) -> dict[str, Any]:
        """How what was explained, as JSON; the score is the mean of the targets', which speak for log-probabilities."""
        return {"method": self.method, "label": " ".join(target.name or str(target.value) for target in self.targets),
                "probability": float(np.exp(self.scores.astype(np.float64)).mean())}

    def to_json(self) -> dict[str, Any]:
        """Method, names of the tokens, and for each target its name, its score and its row of every set."""
        rows = [{"name": target.name or str(target.value), "score": float(score),
                 "read_off": [target.tokens, target.index],
                 "relevance": {name: matrix[i].tolist() for name, matrix in self.relevance.items()}}
                for i, (target, score) in enumerate(zip(self.targets, self.scores, strict=True))]
        return {"method": self.method, "tokens": {name: list(words) for name, words in self.tokens.items()},
                "targets": rows}

    def draw(self, tokens: str | None = None, *, side: int = 28) -> Image.Image:
        """Targets down, tokens of one set across, RGB: each row has its own scale, from 0 to its greatest value.

        tokens: the set; unless given, one that no target is read off, such as a translator's source. What
        a token holds of itself from the start is left out. side: of a cell, in pixels. Raises ExplainError for a set
        that there is not.
        """
        chosen = self._other_set() if tokens is None else tokens
        if chosen not in self.relevance:
            raise ExplainError(f"there is no set of tokens {chosen!r}.{did_you_mean(chosen, self.relevance)} "
                               f"There are: {', '.join(self.relevance)}.")
        heat = self.relevance[chosen].copy()
        if self.method != "attention":
            for row, target in zip(heat, self.targets, strict=True):
                if target.tokens == chosen:
                    row[target.index] = 0
        greatest = heat.max(-1, keepdims=True)
        heat = np.divide(heat, greatest, out=np.zeros_like(heat), where=greatest > 0)
        return drawing.matrix(heat, [target.name or str(target.value) for target in self.targets],
                              self.tokens[chosen], side)

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """The drawing as a picture, or all numbers as .json, after the path's suffix. Raises VitrailError."""
        suffix = Path(path).suffix.lower()
        if suffix not in (".png", ".jpg", ".jpeg", ".webp", ".json"):
            raise ExplainError(f"{path}: an explanation of tokens is saved as .png, .jpg, .webp (the drawing) or .json")
        with atomic_file(path, overwrite=overwrite) as temporary:
            if suffix == ".json":
                Path(temporary).write_text(json.dumps(self.to_json(), ensure_ascii=False), "utf-8")
            else:
                self.draw().save(temporary)
        return Path(path)

    def _other_set(self) -> str:
        """A set that no target is read off, where there is one."""
        asking = {target.tokens for target in self.targets}
        return next((name for name in self.relevance if name not in asking), next(iter(self.relevance)))


def explain_tokens(model: nn.Module, inputs: Sequence[Any] | Mapping[str, Any], score: Callable[[Any, Any], Tensor],
                   targets: Sequence[TokenTarget], *, method: str = "relevance",
                   tokens: Mapping[str, Sequence[str]] | None = None) -> TokenExplanation:
    """What each target rests on, token by token, in every set of tokens that attention leads to.

    inputs: what the model is called with, by place or by name, for one text: tensors of a batch of 1.
    score:  (output, value of a target) -> (1,), what speaks for the target; it needs no gradient for rollout and
            attention.
    method: "relevance" (arXiv:2103.15679, equations 5 to 11), "rollout" (arXiv:2005.00928, over the tokens of all
            sets), or "attention" (the last layer in which the target's token asks each set, as it is).
    tokens: the names of the tokens of some sets; numbers unless given.

    What a recurrence carries from token to token is not seen: only attention is followed. Raises ExplainError on an
    unknown method, set or token, on attention that cannot be followed, and where the score has no gradient.

    Example:
        >>> targets = [TokenTarget(value=(t, word), tokens="target", index=t) for t, word in enumerate(produced)]
        >>> def score(output, value):
        ...     return output[:, value[0], value[1]]
        >>> explanation = explain_tokens(translator, (source, shifted), score, targets)
        >>> explanation.relevance["source"].shape                       # produced words x words of the source
        (6, 5)
        >>> explanation.draw().save("alignment.png")
    """
    if method not in METHODS:
        raise ExplainError(f"there is no method {method!r}.{did_you_mean(method, METHODS)} There are: "
                           f"{', '.join(METHODS)}.")
    if not targets:
        raise ExplainError("there is nothing to explain: give at least one target")
    with evaluating(model), torch.set_grad_enabled(method == "relevance"), \
            record(model, gradients=method == "relevance") as recording:
        output = model(**inputs) if isinstance(inputs, Mapping) else model(*inputs)
        scores = [_score_of_one(score(output, target.value)) for target in targets]
    layers = attended(recording.layers)
    if not layers:
        raise ExplainError("this model's attention is never between tokens")
    if (batch := layers[0].weights.shape[0]) != 1:
        raise ExplainError(f"one text is explained at a time, and this batch holds {batch}")
    if method == "relevance":
        related = [relate(weighted(layers, slopes(value, [layer.weights for layer in layers], retain=True)),
                          relevance_rule) for value in scores]
    else:
        path = [(layer, layer.weights.mean(-3)) for layer in layers]
        related = [relate(path, rollout_rule) if method == "rollout" else latest(path)] * len(targets)
    rows = [_row(matrices, target) for matrices, target in zip(related, targets, strict=True)]
    sets = list(dict.fromkeys(name for row in rows for name in row))
    sizes = {name: next(len(row[name]) for row in rows if name in row) for name in sets}
    empty = {name: torch.zeros(size, dtype=torch.float64) for name, size in sizes.items()}
    return TokenExplanation(
        method=method, targets=tuple(targets), tokens=_names(sizes, tokens or {}),
        scores=torch.cat(scores).detach().float().cpu().numpy(),
        relevance={name: torch.stack([row.get(name, empty[name]) for row in rows]).float().numpy() for name in sets})


def latest(path: Sequence[tuple[Layer, Tensor]]) -> Matrices:
    """For each pair of sets the attention of the last layer in which the one asks the other."""
    return {(layer.queries, layer.keys): attention.detach().double().cpu() for layer, attention in join_steps(path)}


def _score_of_one(value: Any) -> Tensor:
    if not isinstance(value, Tensor) or value.numel() != 1:
        shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ExplainError(f"the score of a target is one number, a tensor of shape (1,), not {shape}: give the inputs "
                           "of one text")
    return value.reshape(1)


def _row(matrices: Matrices, target: TokenTarget) -> dict[str, Tensor]:
    """What the target's token holds of every set (N,)."""
    held = {columns: matrix for (rows, columns), matrix in matrices.items() if rows == target.tokens}
    if not held:
        asking = sorted({rows for rows, _ in matrices})
        raise ExplainError(f"no tokens of a set {target.tokens!r} ask in this "
                           f"model.{did_you_mean(target.tokens, asking)} "
                           f"These do: {', '.join(asking)}.")
    count = min(matrix.shape[1] for matrix in held.values())
    if not 0 <= target.index < count:
        raise ExplainError(f"the set {target.tokens!r} has {count} tokens, 0 to {count - 1}, and a target is read off "
                           f"token {target.index}")
    return {name: matrix[0, target.index] for name, matrix in held.items()}


def _names(sizes: Mapping[str, int], given: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    for name, words in given.items():
        if name not in sizes:
            raise ExplainError(f"there is no set of tokens {name!r}.{did_you_mean(name, sizes)} "
                               f"There are: {', '.join(sizes)}.")
        if len(words) != sizes[name]:
            raise ExplainError(f"the set {name!r} has {sizes[name]} tokens, and {len(words)} names are given")
    return {name: tuple(given.get(name, [str(i) for i in range(size)])) for name, size in sizes.items()}
