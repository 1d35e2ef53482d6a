"""Relevance handed back from a score to the tokens, part by part, its sum kept.

The rules of Chefer et al., CVPR 2021, arXiv:2012.09838, sections 3.1 and 3.2, written against the words: the relevance
of a part's output is shared out among its inputs. Their map for an image goes on to multiply the relevance of attention
with its gradient, which keeps no sum; here is the part that does.
"""
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vitrail.core.errors import ExplainError
from vitrail.explanation.explained import ExplainedModel
from vitrail.explanation.methods import evaluating
from vitrail.nn import (Block, Chain, DropPath, Features, Gelu, Mlp, PositionTable, Head, Residual, Scale,
                        SelfAttention)


@dataclass(frozen=True, eq=False)
class Propagated:
    """The relevance of the image's tokens as a map (B, h, w), of the tokens without a place (B, P), and of the table of
    positions (B,), for `target`, as its score takes it; the three sum up to 1 where the score is one of the output's
    numbers.

    totals: for each part of the way, from the head to the tokens, its name and the sum (B,) of what went through it.
    """

    map: Tensor
    prefix: Tensor
    positions: Tensor
    output: Tensor
    target: Any
    totals: tuple[tuple[str, Tensor], ...]


@torch.no_grad()
def propagate(explained: ExplainedModel, image: Tensor, target: Any = None) -> Propagated:
    """Hands the score's gradient by the output back to the tokens of a plain backbone with a linear readout.

    Where the score is one number of the output, as a class's is, that is a relevance of 1 at this number.

    Raises ExplainError, naming the part, for a model with parts that there is no rule for, and for a head of zeros.
    """
    model: Any = explained.model
    backbone, head = model.backbone, model.head
    parts: dict[str, Any] = {name: getattr(backbone, name, None) for name in ("position", "blocks", "norm")}
    if type(head) is not Head or type(parts["position"]) is not PositionTable or parts["blocks"] is None:
        raise ExplainError("relevance is propagated through a plain backbone (positions that are added, blocks, a "
                           f"norm) and a linear readout; this is a {type(backbone).__name__} with a "
                           f"{type(head).__name__}. method='relevance' explains any model that attends")
    with evaluating(model), _watched(model) as passed:
        features = backbone(image)
        output = head(features)
    target = explained.choose(output, target)
    with torch.enable_grad():
        asked = output.detach().requires_grad_()
        relevance, = torch.autograd.grad(explained.scores(asked, target).sum(), asked)
    totals = []

    def through(name: str, handed: Tensor) -> Tensor:
        totals.append((name, handed.flatten(1).sum(1)))
        return handed
    relevance = through("head.linear", hand_back(head.linear, passed, relevance))
    if not relevance.any():
        raise ExplainError("nothing in the features speaks for this target, as in a new head, whose weights are zero: "
                           "load trained weights")
    relevance = through("head.pool", _pool(head, features, relevance))
    relevance = through("backbone.norm", hand_back(parts["norm"], passed, relevance))
    for i, block in reversed(list(enumerate(parts["blocks"]))):
        if type(block) is not Block:
            raise _no_rule(block)
        for name in ("mlp", "mix"):
            relevance = through(f"backbone.blocks.{i}.{name}", hand_back(getattr(block, name), passed, relevance))
    before, after = passed[parts["position"]][0][0], passed[parts["position"]][1]
    relevance, places = _split_sum(before, after - before, relevance)
    totals.append(("backbone.position", relevance.flatten(1).sum(1) + places.flatten(1).sum(1)))
    count, tokens = relevance.shape[1] - features.maps[0][0, ..., 0].numel(), relevance.sum(-1)
    return Propagated(map=tokens[:, count:].view(features.maps[0].shape[:3]), prefix=tokens[:, :count],
                      positions=places.flatten(1).sum(1), output=output, target=target, totals=tuple(totals))


Passed = dict[nn.Module, tuple[tuple[Any, ...], Any]]     # of each part the inputs and the output
Rule = Callable[[Any, Passed, Tensor], Tensor]


@contextmanager
def _watched(model: nn.Module) -> Iterator[Passed]:
    """Within: what goes into and comes out of every part of a model."""
    passed: Passed = {}

    def keep(part: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        passed[part] = inputs, output
    hooks = [part.register_forward_hook(keep) for part in model.modules()]
    try:
        yield passed
    finally:
        for hook in hooks:
            hook.remove()


def hand_back(part: nn.Module, passed: Passed, relevance: Tensor) -> Tensor:
    """The relevance of a part's output, shared out over its input. Raises ExplainError where no rule is known."""
    rule = RULES.get(type(part))            # a subclass may do something else, for which the rule would be wrong
    if rule is None:
        raise _no_rule(part)
    return rule(part, passed, relevance)


def _no_rule(part: nn.Module) -> ExplainError:
    return ExplainError(f"there is no rule to propagate relevance through a {type(part).__name__}: this works for "
                        "plain transformers made of linear layers, norms, activations, residuals and self-attention")


def _ratio(relevance: Tensor, output: Tensor) -> Tensor:
    """relevance / output, 0 where there was no output to be relevant."""
    return torch.where(output == 0, 0, relevance / output)


def _linear(part: nn.Linear, passed: Passed, relevance: Tensor) -> Tensor:
    """In the shares of the positive products of inputs and weights (section 3.1); the bias gets none."""
    x, weight = passed[part][0][0], part.weight
    up, up_weight, down, down_weight = x.clamp(min=0), weight.clamp(min=0), x.clamp(max=0), weight.clamp(max=0)
    shares = _ratio(relevance, up @ up_weight.T + down @ down_weight.T)
    return up * (shares @ up_weight) + down * (shares @ down_weight)


def _each(part: nn.Module, passed: Passed, relevance: Tensor) -> Tensor:
    """A number for a number: norms, activations and what scales or drops hand on what they are given."""
    return relevance


def _in_turn(part: nn.Module, passed: Passed, relevance: Tensor) -> Tensor:
    for child in reversed(list(part.children())):
        relevance = hand_back(child, passed, relevance)
    return relevance


def _mlp(part: Mlp, passed: Passed, relevance: Tensor) -> Tensor:
    for child in (part.fc2, part.act, part.fc1):
        relevance = hand_back(child, passed, relevance)
    return relevance


def _residual(part: Residual, passed: Passed, relevance: Tensor) -> Tensor:
    (x, *_), _ = passed[part]
    past, branch = _split_sum(x, passed[part.drop][1], relevance)
    for child in (part.drop, part.scale, part.fn, part.norm):
        branch = hand_back(child, passed, branch)
    return past + branch


def _split_sum(x: Tensor, y: Tensor, relevance: Tensor) -> tuple[Tensor, Tensor]:
    """Of x + y to x and to y, each place by its share, then scaled."""
    shares = _ratio(relevance, x + y)
    return _scaled(x * shares, y * shares, relevance)


def _split_product(a: Tensor, b: Tensor, product: Tensor, relevance: Tensor) -> tuple[Tensor, Tensor]:
    """Of a @ b to a and to b, each entry by its share, then scaled."""
    shares = _ratio(relevance, product)
    return _scaled(a * (shares @ b.mT), b * (a.mT @ shares), relevance)


def _scaled(u: Tensor, v: Tensor, relevance: Tensor) -> tuple[Tensor, Tensor]:
    """Two parts' relevance, so that both together have the sum of what was shared out (section 3.2): each counts by
    the size of its own sum. Unscaled, a product would give either factor the whole sum."""
    def total(x: Tensor) -> Tensor:
        return x.flatten(1).sum(1).view(-1, *(1,) * (x.ndim - 1))
    of_u, of_v, whole = total(u), total(v), total(relevance)
    sizes = of_u.abs() + of_v.abs()
    return u * _ratio(of_u.abs(), of_u) * _ratio(whole, sizes), v * _ratio(of_v.abs(), of_v) * _ratio(whole, sizes)


def _self_attention(part: SelfAttention, passed: Passed, relevance: Tensor) -> Tensor:
    merged = hand_back(part.out.proj, passed, relevance)                                  # (B, N, C)
    q, k, v = passed[part.attend][0][:3]                                                  # 3 x (B, H, N, D)
    mixed = merged.unflatten(-1, (q.shape[1], -1)).transpose(1, 2)                      # (B, H, N, D)
    weights = part.attend.weights(q, k)                                                 # (B, H, N, M)
    of_weights, of_v = _split_product(weights, v, weights @ v, mixed)
    of_q, of_k = _split_product(q, k.mT, q @ k.mT, of_weights)          # the softmax hands on what it is given
    parts = torch.stack([of_q, of_k.mT, of_v]).permute(1, 3, 0, 2, 4)                   # (B, N, P, H, D)
    return hand_back(part.qkv.proj, passed, parts.flatten(2))


def _pool(head: Head, features: Features, relevance: Tensor) -> Tensor:
    """From the pooled vector to the tokens it was made of, (B, P + N, C), by each token's share."""
    tokens = features.maps[-1].flatten(1, 2)
    if features.prefix is not None:
        tokens = torch.cat([features.prefix, tokens], 1)
    prefix = tokens.shape[1] - features.maps[-1][0, ..., 0].numel()
    grid = features.maps[-1].shape[1:3]

    def pool(x: Tensor) -> Tensor:
        return head.pool(Features((x[:, prefix:].unflatten(1, grid),), x[:, :prefix] if prefix else None))
    with torch.enable_grad():
        x = tokens.detach().requires_grad_()
        pooled = pool(x)
        (slope,) = torch.autograd.grad(pooled, x, _ratio(relevance, pooled.detach()))
    return tokens * slope


RULES: dict[type[nn.Module], Rule] = {
    nn.Linear: _linear, Residual: _residual, SelfAttention: _self_attention, Mlp: _mlp, Chain: _in_turn,
    **dict.fromkeys((nn.LayerNorm, Gelu, nn.GELU, nn.ReLU, nn.Identity, nn.Dropout, DropPath, Scale), _each)}
