"""KVT against the authors' code, and with all tokens for neighbours against timm's DeiT.

The authors' code runs at its size of construction, and writes its 100 neighbours down where no argument reaches.

Which token is the k-th nearest is a choice, and where two scores differ by less than rounding it falls either way.
Thousands of choices are made at 224 pixels in twelve layers, and some are as close as that (in float64, both sides
agree to 1e-14). So the whole depth is compared where the k-th and the next score are 2e-5 apart at least, and at 224
pixels the first layer, whose scores have seen the least rounding.
"""
from pathlib import Path

from torch import nn

from tests.parity.case import Case, Recorded, timm_model
from tests.parity.case_legacy import legacy, padded, up

SOURCE = "damo-cv/KVT@fd847451a264895f0a1b622367ca72fc809867e9: KNN_VisionTransformer.py"


def _official(name: str, *sizes: tuple[int, int], dim: int, heads: int, **changes: int) -> Recorded:
    def official(code: Path, height: int, width: int) -> nn.Module:
        model: nn.Module = legacy(code, "KNN_VisionTransformer").VisionTransformer(
            img_size=(up(height), up(width)), embed_dim=dim, num_heads=heads, depth=changes.get("depth", 12))
        for part in model.modules():
            if hasattr(part, "topk"):
                setattr(part, "topk", changes.get("neighbours", 100))       # noqa: B010   (mypy sees a tensor)
        return model
    return Recorded(name=name, source=SOURCE, official=official, sizes=sizes, output=padded,
                    changes=changes, at=lambda height, width: {"image": (height, width)})


def _of_all(height: int, width: int) -> nn.Module:
    return timm_model("deit_tiny_patch16_224", dynamic_img_size=True, dynamic_img_pad=True)


CASES = [
    _official("kvt_ti16", (160, 160), dim=192, heads=3),
    _official("kvt_ti16", (64, 112), (64, 96), (50, 67), dim=192, heads=3, neighbours=12),
    _official("kvt_ti16", (224, 224), dim=192, heads=3, depth=1),
    _official("kvt_s16", (224, 224), dim=384, heads=6, depth=1),
    _official("kvt_s16", (160, 160), dim=384, heads=6, depth=2),
    _official("kvt_b16", (160, 160), (150, 155), dim=768, heads=12, depth=2),
    Case(name="kvt_ti16", reference=_of_all, sizes=((224, 224), (130, 200)), changes={"neighbours": 197}),
]
