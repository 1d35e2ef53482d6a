"""KVT: a DeiT whose tokens look only at the k tokens that they are most like, not at the clutter around these.

Wang et al., ECCV 2022, arXiv:2106.00515. The attention itself is `vitrail.attention.knn`.
"""
import dataclasses
from typing import Any

from vitrail.attention.knn import PAPER as KNN
from vitrail.attention.knn import KnnAttention
from vitrail.backbones.deit import PLAIN, DeiT
from vitrail.core.card import Figures, Idea, Variant, variant
from vitrail.core.errors import ModelError
from vitrail.nn import init

PAPER = dataclasses.replace(KNN, builds_on=("attention.knn", "backbones.deit"),
                            ideas=(Idea("attention.knn", "method", "its attention"),
                                   Idea("backbones.deit", "experiments", "the network and its training")))


def kvt(*, image: int | tuple[int, int] = 224, patch: int = 16, dim: int = 384, depth: int = 12, heads: int = 6,
        mlp_ratio: float = 4.0, neighbours: int = 100, in_chans: int = 3, drop_path: float = 0.0) -> DeiT:
    """A DeiT with a class token, where every token looks at its `neighbours` nearest, the class token among them.

    With as many neighbours as tokens (197 at 224 pixels) it is the DeiT, whose tensors have the same names and shapes.
    Raises ModelError for no neighbours at all.
    """
    if neighbours < 1:
        raise ModelError(f"neighbours={neighbours} leave nothing to look at: say at least 1")
    model = DeiT(image=image, patch=patch, dim=dim, depth=depth, heads=heads, mlp_ratio=mlp_ratio,
                 in_chans=in_chans, drop_path=drop_path)
    block: Any
    for block in model.blocks:
        block.mix.fn = KnnAttention(dim, heads, neighbours=neighbours)
    init.truncated_linears(model.blocks)
    return model


def _size(params: int, gflops: float, reported: dict[str, float], **args: Any) -> Variant[DeiT]:
    """No trained tensors were released. Those of DeiT load, in either layout of theirs."""
    return variant(kvt, Figures(params=params, gflops=gflops, reported=reported,
                                where="README of damo-cv/KVT" if reported else ""), **args)


kvt_ti16 = _size(5_717_416, 1.254, {"top1": 73.0, "params_m": 5.7, "gflops": 1.3}, dim=192, heads=3)
kvt_s16 = _size(22_050_664, 4.599, {"top1": 80.1, "params_m": 22, "gflops": 4.6}, dim=384, heads=6)
kvt_b16 = _size(86_567_656, 17.564, {}, dim=768, heads=12)

KEYS = {"timm": lambda settings: PLAIN, "official": lambda settings: PLAIN}
