"""CaiT against timm, which is built for one size and cuts what no whole patch covers; ours pads."""
import math
from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from tests.parity.case import Case, timm_model

SIZES = ((224, 224), (160, 160), (96, 208), (125, 67))          # training, square, wide, odd


def _whole(side: int) -> int:
    return 16 * math.ceil(side / 16)


def _padded(model: nn.Module, image: Tensor) -> Tensor:
    out = model(F.pad(image, (0, _whole(image.shape[3]) - image.shape[3], 0, _whole(image.shape[2]) - image.shape[2])))
    assert isinstance(out, Tensor)
    return out


def _case(name: str, *sizes: tuple[int, int], changes: Mapping[str, int] = {}) -> Case:
    def build(height: int, width: int) -> nn.Module:
        return timm_model(name, img_size=(_whole(height), _whole(width)), **changes)
    return Case(name=name, reference=build, sizes=sizes, changes=changes, output=_padded,
                at=lambda height, width: {"image": (height, width)})


CASES = [
    _case("cait_xxs24_224", *SIZES),
    *(_case(name, (size, size), (125, 67), changes={"depth": 2}) for name, size in (
        ("cait_xxs24_384", 384), ("cait_xxs36_224", 224), ("cait_xxs36_384", 384), ("cait_xs24_384", 384),
        ("cait_s24_224", 224), ("cait_s24_384", 384), ("cait_s36_384", 384), ("cait_m36_384", 384),
        ("cait_m48_448", 448))),
]
