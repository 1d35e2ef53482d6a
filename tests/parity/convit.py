"""ConViT against timm, which runs at its size of construction, and counts offsets on square grids alone."""
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.parity.case import Case, timm_model

SHORT = {"depth": 3, "local": 2}


def _up(n: int) -> int:
    return n + -n % 16


def offsets(h: int, w: int) -> Tensor:
    """(1, N, N, 3): dx, dy, dx² + dy² from each place of any grid to each other, counted one by one."""
    places = [(y, x) for y in range(h) for x in range(w)]
    return torch.tensor([[[[x - u, y - v, (x - u) ** 2 + (y - v) ** 2] for y, x in places] for v, u in places]]).float()


def _case(name: str, reference: str, *sizes: tuple[int, int], changes: Mapping[str, int] = {}, **size: int) -> Case:
    theirs = {{"local": "local_up_to_layer"}.get(k, k): v for k, v in changes.items()} | size

    def build(height: int, width: int) -> nn.Module:
        size = _up(height), _up(width)
        model = timm_model(reference, img_size=size, **theirs)
        for part in model.modules():
            if hasattr(part, "rel_indices"):        # it counts them itself only where their number is another
                part.rel_indices = offsets(size[0] // 16, size[1] // 16)
        return model
    return Case(name=name, reference=build, sizes=sizes, changes=changes, output=_padded,
                at=lambda height, width: {"image": (height, width)})


def _padded(model: nn.Module, image: Tensor) -> Tensor:
    out = model(F.pad(image, (0, -image.shape[3] % 16, 0, -image.shape[2] % 16)))
    assert isinstance(out, Tensor)
    return out


def _square(height: int, width: int) -> nn.Module:
    """timm, with the offsets that it counts by itself."""
    return timm_model("convit_tiny", img_size=(height, width))


CASES = [
    Case(name="convit_ti", reference=_square, sizes=((224, 224), (160, 160), (384, 384)),
         at=lambda height, width: {"image": (height, width)}),
    _case("convit_ti", "convit_tiny", (128, 272), (272, 96), (250, 131), changes={"depth": 12, "local": 10}),
    _case("convit_s", "convit_small", (224, 224), (100, 160), changes=SHORT),
    _case("convit_b", "convit_base", (224, 224), (100, 160), changes=SHORT),
    _case("convit_b", "convit_base", (96, 96), changes={"depth": 2, "local": 0}),
    # timm has none of the + sizes, and counts a head's width
    _case("convit_ti_plus", "convit_tiny", (224, 224), (100, 160), changes=SHORT, embed_dim=64, num_heads=4),
    _case("convit_s_plus", "convit_small", (224, 224), (100, 160), changes=SHORT, embed_dim=64, num_heads=9),
    _case("convit_b_plus", "convit_base", (160, 160), (100, 160), changes=SHORT, embed_dim=64, num_heads=16),
]
