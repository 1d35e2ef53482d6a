"""CoAtNet against timm's `coatnet_*_224`, told what the paper says and timm's defaults do not.

Maxima instead of means where maps shrink (appendix A.1; windows of 2, of which the one over the edge of an odd map
counts, as TensorFlow pads), stride in the first convolution of an MBConv (equation 5), heads of 64 channels in
CoAtNet-5. timm has no stage of two kinds of blocks: for the two largest, its own blocks are put together.
"""
from collections.abc import Mapping
from typing import Any

from torch import nn

from tests.parity.case import Case, timm_model

SIZES = ((224, 224), (160, 160), (96, 224), (250, 134))         # training, square, wide, and maps of odd sides
FLAT: Mapping[str, Any] = {"depths": (1, 1, 2, 1)}
THIN: Mapping[str, Any] = {"dims": (24, 48, 96, 256, 384), "depths": (1, 1, 2, 2, 1)}


def _maxima(model: nn.Module) -> nn.Module:
    """Every map that shrinks keeps its last row and column."""
    for part in model.modules():
        if isinstance(part, nn.MaxPool2d):
            part.ceil_mode = True
    return model


def _timm(name: str, height: int, width: int, *, late: bool = False, head: int = 32, **changes: Any) -> nn.Module:
    return _maxima(timm_model(f"{name}_224", img_size=(height, width), transformer_pool_type="max2",
                              conv_pool_type="max2", conv_stride_mode="dw" if late else "1x1",
                              transformer_dim_head=head, **changes))


def _case(name: str, *sizes: tuple[int, int], changes: Mapping[str, Any] = {}, head: int = 32) -> Case:
    theirs = {k: v for k, v in changes.items() if k != "strided_depthwise"}

    def build(height: int, width: int) -> nn.Module:
        return _timm(name, height, width, late=bool(changes.get("strided_depthwise")), head=head, **theirs)
    return Case(name=name, reference=build, sizes=sizes, changes=changes, at=lambda h, w: {"image": (h, w)})


def _mixed(name: str, *sizes: tuple[int, int], heads: tuple[int, int]) -> Case:
    """Table 12: S3 is a stage of MBConvs that strides, and one of attention that widens and does not."""
    dims, depths = THIN["dims"], THIN["depths"]

    def build(height: int, width: int) -> nn.Module:
        model = _timm("coatnet_0", height, width, head=dims[3] // heads[0], embed_dim=(*dims[:2], *dims[3:]),
                      depths=(*depths[:2], *depths[3:]), stem_width=192, head_hidden_size=dims[-1])
        convolutions = _timm("coatnet_0", height, width, embed_dim=dims[:4], depths=depths[:4],
                             block_type=("C", "C", "C", "T")).get_submodule("stages.2")
        attention = _timm("coatnet_0", height, width, head=dims[3] // heads[0], embed_dim=dims[1:],
                          depths=depths[1:], block_type=("C", "C", "T", "T")).get_submodule("stages.2")
        block = attention.get_submodule("blocks.0")
        setattr(block.get_submodule("shortcut"), "pool", nn.Identity())         # noqa: B010
        setattr(block.get_submodule("norm1.down"), "pool", nn.Identity())       # noqa: B010
        stages = model.get_submodule("stages")
        setattr(model, "stages", nn.Sequential(stages[0], stages[1], convolutions, attention, stages[3]))  # noqa: B010
        return model
    return Case(name=name, reference=build, sizes=sizes, changes={**THIN, "heads": (0, 0, 0, *heads)},
                at=lambda h, w: {"image": (h, w)})


CASES = [
    _case("coatnet_0", *SIZES),
    _case("coatnet_0", (224, 224), (250, 134), changes={"strided_depthwise": True}),
    _case("coatnet_1", (224, 224), (250, 134), changes=FLAT),
    _case("coatnet_2", (224, 224), (250, 134), changes=FLAT),           # a stem as wide as the first stage
    _case("coatnet_3", (250, 134), changes=FLAT),
    _case("coatnet_4", (96, 128), changes=FLAT),
    _case("coatnet_5", (96, 128), changes={"depths": (1, 1, 1, 1)}, head=64),
    _mixed("coatnet_6", (224, 224), (250, 134), heads=(2, 3)),
    _mixed("coatnet_7", (224, 224), heads=(4, 6)),
]
