"""From recorded attention to what each image token is worth to the answer: one walk for all models.

The methods define a matrix R over tokens as a product of one matrix a layer, the later layer on the left, and read
one row of it (or the mean of several): what the answer's own tokens hold of each image token. The walk multiplies
that row through the layers from the last to the first. So no matrix over all tokens is ever built, windows are walked
through their own split and merge, the cells of a reduced map share out what they get, and a pyramid needs one rule: a
merged token is the mean of its parts.
"""
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from vitrail.core.errors import ExplainError
from vitrail.explanation.record import Layer
from vitrail.nn import Channels, Elsewhere, Features, Reduced, TokenSets, Within

IMAGE = TokenSets.keys                      # the set of tokens that an image is cut into

ShareOut = Callable[[Tensor], Tensor]       # of what was looked at among the tokens that it stands for
Step = Callable[[Tensor, Tensor, ShareOut], Tensor]


@dataclass(frozen=True)
class Share:
    """How much each token counts: those without a place (B, Q, P), and the map (B, Q, h, w), for Q questions."""

    prefix: Tensor
    map: Tensor


def same(looked: Tensor) -> Tensor:
    """How attention to the tokens themselves is shared out."""
    return looked


def plain(rows: Tensor, attention: Tensor, share_out: ShareOut = same) -> Tensor:
    """One look alone: rows (..., Q, N) times A (..., N, M), and nothing kept."""
    return share_out(rows @ attention)


def residual(rows: Tensor, attention: Tensor, share_out: ShareOut = same) -> Tensor:
    """R <- R + Ā R (arXiv:2103.15679, equation 6), seen from the row: a token keeps what it has."""
    looked = share_out(rows @ attention)
    return keep(rows, looked.shape[-1]) + looked


def normalised(rows: Tensor, attention: Tensor, share_out: ShareOut = same) -> Tensor:
    """R <- Â R, Â = A + I with its rows normalised (arXiv:2005.00928, section 3), seen from the row."""
    return residual(rows / (1 + attention.sum(-1))[..., None, :], attention, share_out)


def keep(rows: Tensor, tokens: int) -> Tensor:
    """The rows of the first tokens, the only ones that asked, among all `tokens`."""
    return nn.functional.pad(rows, (0, tokens - rows.shape[-1]))


def sites(layers: Sequence[Layer]) -> list[Layer]:
    """One layer for each time that image tokens attended image tokens, in order (`attended`).

    Raises ExplainError where other tokens took part, and where the tokens cannot be laid out as a map.
    """
    chosen = attended(layers)
    foreign = [layer for layer in chosen if layer.keys != IMAGE or not (layer.probe or layer.queries == IMAGE)]
    if foreign:
        raise ExplainError(f"in {foreign[0].mixer} tokens of the set {foreign[0].queries!r} look at "
                           f"{foreign[0].keys!r}, so the token that an answer is read off must be told: the task's "
                           "`reads` does, and explain_tokens takes it with each target")
    for layer in chosen:
        if layer.grid is None:
            raise ExplainError(f"the tokens of {layer.name} cannot be laid out as a map, so this method does not "
                               "apply; 'gradcam' may")
    return chosen


def attended(layers: Sequence[Layer]) -> list[Layer]:
    """One layer for each time that tokens attended tokens, of whatever sets, in order.

    Attention between channels or within a patch moves nothing between tokens. Of several maps that one call of a
    mixer showed, the one it made of the others counts.
    """
    calls: dict[int, Layer] = {}
    for layer in layers:
        if isinstance(layer.groups, Channels | Within):
            continue
        if isinstance(layer.groups, Elsewhere):
            raise ExplainError(f"in {layer.mixer} a token looks at {layer.groups.over}, which this method cannot "
                               "follow through the layers; 'gradcam' applies")
        if layer.call not in calls or layer.shown or not calls[layer.call].shown:
            calls[layer.call] = layer
    return list(calls.values())


@torch.no_grad()
def read_by(head: Callable[[Features], Tensor], features: Features) -> tuple[list[int], Tensor | None]:
    """Which prefix tokens a head, or a score of it, reads, and the coarsest map: fed nan there, it answers nan."""
    def reads(changed: Features) -> bool:
        return bool(head(changed).isnan().any())

    tokens = []
    prefix = features.prefix
    for i in range(0 if prefix is None else prefix.shape[1]):
        assert prefix is not None
        spoilt = prefix.clone()
        spoilt[:, i] = torch.nan
        if reads(replace(features, prefix=spoilt)):
            tokens.append(i)
    for i, map_ in reversed(list(enumerate(features.maps))):
        spoilt_maps = (*features.maps[:i], torch.full_like(map_, torch.nan), *features.maps[i + 1:])
        if reads(replace(features, maps=spoilt_maps)):
            return tokens, map_
    return tokens, None


def readout(head: Callable[[Features], Tensor], features: Features) -> Share:
    """What the answer is read off: the mean of the tokens that the head reads, the map counting as one."""
    tokens, read = read_by(head, features)
    at = features.maps[-1] if read is None else read
    B, h, w = at.shape[:3]
    parts = len(tokens) + (read is not None)
    if not parts:
        raise ExplainError("the head reads neither a token nor a map, so nothing tells where an answer comes from")
    prefix = at.new_zeros(B, 1, 0 if features.prefix is None else features.prefix.shape[1], dtype=torch.float32)
    prefix[..., tokens] = 1 / parts
    each = 0.0 if read is None else 1 / (parts * h * w)
    return Share(prefix, at.new_full((B, 1, h, w), each, dtype=torch.float32))


def walk(share: Share, path: Sequence[tuple[Layer, Tensor]], step: Step) -> Share:
    """The share carried from behind the last layer of the path to before its first.

    path: layers in order of execution, each with its attention (B, [G,] N, M), one for all heads.
    """
    for layer, attention in reversed(path):
        share = carry(share, layer, attention.float(), step)
    return share


def carry(share: Share, layer: Layer, attention: Tensor, step: Step) -> Share:
    """The share carried through one layer, from behind it to before it."""
    assert layer.grid is not None
    h, w = layer.grid
    share = replace(share, map=spread(share.map, layer.grid))
    if layer.probe:                                                         # the readout asks all tokens itself
        asked = attention[:, :1] * share.map.sum((2, 3))[..., None]         # (B, Q, M)
        return Share(torch.zeros_like(share.prefix), asked.unflatten(-1, layer.grid))
    if isinstance(layer.groups, Reduced):
        cells = layer.groups
        rows = step(share.map.flatten(2), attention, lambda looked: cells.spread(looked, h, w))     # (B, Q, N)
        return replace(share, map=rows.unflatten(-1, layer.grid))
    if layer.groups is not None:
        split, merge = layer.groups.split, layer.groups.merge
        rows = split(share.map.permute(0, 2, 3, 1))                         # (B, G, n, Q)
        real = split(share.map.new_ones(1, h, w, 1))                        # (1, G, n, 1), 0 where a window is padded
        rows = step(rows.mT, attention * real.mT, same).mT                  # (B, G, n, Q)
        return replace(share, map=merge(rows, h, w).permute(0, 3, 1, 2))
    prefix, asks = attention.shape[-1] - h * w, attention.shape[-2]
    if prefix not in (0, share.prefix.shape[-1]):
        raise ExplainError(f"{layer.name} attends {prefix} tokens besides the map, the answer is read off "
                           f"{share.prefix.shape[-1]}: which is which cannot be told")
    # tokens that join after this layer had nothing of the image before it
    rows = torch.cat([share.prefix[..., :prefix], share.map.flatten(2)], -1)        # (B, Q, M)
    out = step(rows[..., :asks], attention, same)                                   # (B, Q, M)
    if step is not plain:
        out[..., asks:] += rows[..., asks:]                                         # these did not ask, and stay
    return Share(out[..., :prefix] if prefix else share.prefix, out[..., prefix:].unflatten(-1, layer.grid))


def spread(share: Tensor, grid: tuple[int, int]) -> Tensor:
    """A map (B, Q, h, w) on a finer grid: a merged token was the mean of its parts, so each gets its equal share."""
    for axis, n in zip((-2, -1), grid, strict=True):
        old = share.shape[axis]
        if old == n:
            continue
        if n < old:
            raise ExplainError(f"this network's maps grow again, here from {n} tokens to {old}, past skips that this "
                               "method cannot follow; 'attention' and 'gradcam' apply")
        factor = -(-n // old)
        if -(-n // factor) != old:
            raise ExplainError(f"a map of {old} tokens does not come of merging one of {n}")
        parent = torch.arange(n, device=share.device) // factor
        parts = torch.bincount(parent, minlength=old).to(share)             # fewer at the far edge
        share = (share / (parts[:, None] if axis == -2 else parts)).index_select(axis, parent)
    return share
