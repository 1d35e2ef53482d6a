"""TNT against timm, which runs at its size of construction."""
from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from tests.parity.case import Case, timm_model


def _case(name: str, reference: str, *sizes: tuple[int, int], changes: Mapping[str, int] = {}) -> Case:
    def build(height: int, width: int) -> nn.Module:
        return timm_model(reference, img_size=(height + -height % 16, width + -width % 16), **changes)
    return Case(name=name, reference=build, sizes=sizes, changes=changes, output=_padded,
                at=lambda height, width: {"image": (height, width)})


def _padded(model: nn.Module, image: Tensor) -> Tensor:
    """The reference takes no size that the patch does not divide; ours pads it with zeros below and to the right."""
    out = model(F.pad(image, (0, -image.shape[3] % 16, 0, -image.shape[2] % 16)))
    assert isinstance(out, Tensor)
    return out


CASES = [
    _case("tnt_s", "tnt_s_patch16_224", (224, 224), (160, 160), (128, 272), (250, 131)),
    _case("tnt_b", "tnt_b_patch16_224", (224, 224), (130, 97), changes={"depth": 2}),
]
