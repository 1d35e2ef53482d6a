"""What each token of one set holds of each token of another, over any number of token sets.

R of two sets s and q is a matrix (B, Ns, Nq). Before the first layer a token holds itself, and nothing of other sets;
layers change R in the order in which they ran. Two rules, both over self- and cross-attention:

- `relevance_rule`: Chefer et al., ICCV 2021, arXiv:2103.15679, equations 6 to 11;
- `rollout_rule`: Abnar & Zuidema, arXiv:2005.00928, section 3, over the tokens of all sets as one: a layer's queries
  keep half of what they held and take the other half from what they look at.

These matrices are built whole, because equation 10 multiplies two of them. A network for images alone is walked
without them, row by row (`tokens.walk`), which gives the same numbers where there is one set.
"""
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from vitrail.core.errors import ExplainError
from vitrail.explanation.record import Layer
from vitrail.explanation.tokens import Share, carry, plain

Matrices = dict[tuple[str, str], Tensor]                            # (s, q) -> (B, Ns, Nq); what is missing is 0
Rule = Callable[[Matrices, str, str, Tensor], None]


@torch.no_grad()
def relate(path: Sequence[tuple[Layer, Tensor]], rule: Rule) -> Matrices:
    """R of every pair of sets, after all layers of the path.

    path: layers in the order of their execution, each with its attention (B, [G,] N, M), one for all heads.
    Raises ExplainError where the same set has more tokens in one layer than in another.

    Example:
        >>> with torch.no_grad(), record(translator) as recording:
        ...     translator(source, target)
        >>> path = [(layer, layer.weights.mean(-3)) for layer in attended(recording.layers)]
        >>> relate(path, rollout_rule)["target", "source"].shape
        torch.Size([1, 7, 5])
    """
    path = [(layer, whole(layer, attention)) for layer, attention in join_steps(path)]
    matrices: Matrices = {}
    for name, size in set_sizes(path).items():
        matrices[name, name] = torch.eye(size, dtype=torch.float64).repeat(path[0][1].shape[0], 1, 1)
    for layer, attention in path:
        missing = matrices[layer.queries, layer.queries].shape[1] - attention.shape[1]
        # tokens that did not ask, as beside a class token, look at nothing
        rule(matrices, layer.queries, layer.keys, torch.nn.functional.pad(attention, (0, 0, 0, missing)))
    return matrices


def relevance_rule(matrices: Matrices, queries: str, keys: str, attention: Tensor) -> None:
    """Equations 6 and 7 for self-attention, 10 and 11 for cross-attention, in place.

    attention: Ā (B, Ns, Nq), mean over heads of (∇A ⊙ A)⁺ (equation 5). Sets beyond the two take part by equation 11.
    """
    gained = {columns: attention @ held for (rows, columns), held in matrices.items() if rows == keys}
    if queries != keys:
        mixed = normalised_self(matrices[queries, queries]).mT @ attention @ normalised_self(matrices[keys, keys])
        gained[keys] = mixed
    for columns, gain in gained.items():
        held = matrices.get((queries, columns))
        matrices[queries, columns] = gain if held is None else held + gain


def normalised_self(matrix: Tensor) -> Tensor:
    """R̄ of a set with itself (equations 8 and 9): what was gained beside the identity, each row brought to the sum 1,
    and the identity. A row that gained nothing stays the identity's."""
    config = torch.eye(matrix.shape[-1], dtype=matrix.dtype)
    gained = matrix - config
    total = gained.sum(-1, keepdim=True)
    return torch.where(total > 0, gained / total, 0.0) + config


def rollout_rule(matrices: Matrices, queries: str, keys: str, attention: Tensor) -> None:
    """R <- Â R, Â = A + I with its rows normalised, in place. Over all sets together each row keeps the sum 1."""
    total = 1 + attention.sum(-1, keepdim=True)
    gained = {columns: attention @ held for (rows, columns), held in matrices.items() if rows == keys}
    for name in {columns for rows, columns in matrices if rows in (queries, keys)}:
        terms = [term for term in (matrices.get((queries, name)), gained.get(name)) if term is not None]
        matrices[queries, name] = torch.stack(terms).sum(0) / total


def join_steps(path: Sequence[tuple[Layer, Tensor]]) -> list[tuple[Layer, Tensor]]:
    """The path with the steps of each recurrent mixer as one layer, whose queries are those of the steps in order."""
    joined: dict[tuple[str, int], tuple[Layer, Tensor]] = {}
    for layer, attention in path:
        key = (layer.mixer, 0) if layer.stepwise else (layer.mixer, 1 + layer.call)
        if key in joined:
            first, before = joined[key]
            joined[key] = first, torch.cat([before, attention], -2)
        else:
            joined[key] = layer, attention
    return list(joined.values())


def whole(layer: Layer, attention: Tensor) -> Tensor:
    """Attention (B, [G,] N, M) as one matrix between tokens (B, N, M), in double precision, on the processor.

    Gains may be a millionth of the identity that they are added to, and equation 8 takes it away again.
    """
    attention = attention.detach().to("cpu", torch.float64)
    if layer.groups is None:
        return attention
    if layer.grid is None:
        raise ExplainError(f"the tokens of {layer.name} cannot be laid out as a map, so it is not known which of them "
                           "are grouped together; 'gradcam' may apply")
    batch = attention.shape[0]
    places = layer.grid[0] * layer.grid[1]
    every = torch.eye(places, dtype=torch.float64).repeat(batch, 1, 1)                           # (B, N, N)
    share = Share(every[..., :0], every.unflatten(-1, layer.grid))
    return carry(share, replace(layer, probe=False), attention, plain).map.flatten(2).double()


def set_sizes(path: Sequence[tuple[Layer, Tensor]]) -> dict[str, int]:
    """How many tokens each set has: as many as are looked at; of a set that only asks, as many as ask."""
    sizes: dict[str, int] = {}
    for layer, attention in path:
        count = sizes.setdefault(layer.keys, attention.shape[-1])
        if count != attention.shape[-1]:
            raise ExplainError(f"the set of tokens {layer.keys!r} has {attention.shape[-1]} tokens in {layer.name} and "
                               f"{count} before: which is which cannot be told. Sets that differ need names that "
                               "differ (nn.TokenSets)")
    for layer, attention in path:
        count = sizes.setdefault(layer.queries, attention.shape[-2])
        if attention.shape[-2] > count or layer.queries != layer.keys and attention.shape[-2] != count:
            raise ExplainError(f"{attention.shape[-2]} tokens of the set {layer.queries!r} ask in {layer.name}, and it "
                               f"has {count}: which is which cannot be told. Sets that differ need names that differ "
                               "(nn.TokenSets)")
    return sizes
