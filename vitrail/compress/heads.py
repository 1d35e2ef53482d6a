"""Attention heads taken out for good (Michel et al., arXiv:1905.10650; Voita et al., arXiv:1905.09418)."""
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vitrail.core.errors import ModelError, did_you_mean
from vitrail.nn import GroupedAttention, Merge, SelfAttention, Split

PRUNABLE = (SelfAttention, GroupedAttention)        # nothing but these projections depends on the number of heads


def prune_heads(model: nn.Module, *, module: str, heads: Sequence[int]) -> None:
    """Takes heads out of one attention, in place: their rows of the first projection, their columns of the last.

    module: its name in the model, such as "backbone.blocks.0.mix.fn". heads: numbers from 0. What the others compute
    is left as it was, and so is the width of each. Raises ModelError for a module that is not such an attention, for a
    number that is not one of its heads, and where no head would be left.
    """
    attention = dict(model.named_modules()).get(module)
    if attention is None or type(attention) not in PRUNABLE:
        names = prunable(model)
        raise ModelError(f"{module!r} is not an attention whose heads can be taken out.{did_you_mean(module, names)} "
                         f"There are: {', '.join(names[:4]) or 'none'}{', ...' if len(names) > 4 else ''}.")
    split, merge = attention.qkv, attention.out
    assert isinstance(split, Split) and isinstance(merge, Merge)
    gone = set(heads)
    if strange := sorted(gone - set(range(split.heads))):
        raise ModelError(f"{module} has {split.heads} heads, 0 to {split.heads - 1}, and {strange[0]} is not one of "
                         "them")
    kept = [head for head in range(split.heads) if head not in gone]
    if not kept:
        raise ModelError(f"all {split.heads} heads of {module} would be taken out: one at least must stay")
    width = split.proj.out_features // (split.parts * split.heads)
    rows = _places(kept, split.heads, split.parts, width).to(split.proj.weight.device)
    columns = _places(kept, split.heads, 1, width).to(merge.proj.weight.device)
    bias = None if split.proj.bias is None else split.proj.bias[rows]
    split.proj = _linear(split.proj, split.proj.weight[rows], bias)
    merge.proj = _linear(merge.proj, merge.proj.weight[:, columns], merge.proj.bias)
    split.heads = len(kept)


def prunable(model: nn.Module) -> list[str]:
    """The names of the attentions whose heads can be taken out."""
    return [name for name, part in model.named_modules() if type(part) in PRUNABLE]


def _places(kept: Sequence[int], heads: int, parts: int, width: int) -> Tensor:
    """Where the numbers of the kept heads lie in `parts` vectors, each of all heads side by side."""
    places = torch.arange(parts * heads * width).view(parts, heads, width)      # (parts, H, D)
    return places[:, list(kept)].flatten()


def _linear(old: nn.Linear, weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A linear layer of these numbers, trainable where the old one was."""
    outputs, inputs = weight.shape
    new = nn.Linear(inputs, outputs, bias=bias is not None, device="meta", dtype=weight.dtype)
    new.weight = nn.Parameter(weight.detach().clone(), requires_grad=old.weight.requires_grad)
    if bias is not None:
        new.bias = nn.Parameter(bias.detach().clone(), requires_grad=old.weight.requires_grad)
    new.train(old.training)
    return new
