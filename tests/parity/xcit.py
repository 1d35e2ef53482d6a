"""XCiT against timm, which takes any size: its convolutions pad by themselves, and nothing is resampled."""
from collections.abc import Mapping

from torch import nn

from tests.parity.case import Case, timm_model

SIZES = ((224, 224), (160, 160), (128, 272), (250, 131))        # training, square, wide, odd
SHORT = {"depth": 2}


def _case(name: str, *sizes: tuple[int, int], changes: Mapping[str, int] = {}) -> Case:
    def build(height: int, width: int) -> nn.Module:
        return timm_model(f"{name}_224", **changes)
    return Case(name=name, reference=build, sizes=sizes, changes=changes)


CASES = [
    _case("xcit_nano_12_p16", *SIZES, (384, 384)),              # the norm of the class token alone
    _case("xcit_nano_12_p8", (224, 224), (97, 71)),
    _case("xcit_tiny_12_p16", *SIZES),                          # the norm of all tokens
    _case("xcit_tiny_12_p8", (96, 96), (97, 71)),
    _case("xcit_tiny_24_p16", (224, 224), (97, 71)),
    _case("xcit_small_12_p16", (224, 224), (97, 71)),
    _case("xcit_tiny_24_p8", (97, 71), changes=SHORT),
    _case("xcit_small_12_p8", (97, 71), changes=SHORT),
    _case("xcit_small_24_p8", (97, 71), changes=SHORT),
    _case("xcit_small_24_p16", (224, 224), (97, 71), changes=SHORT),
    _case("xcit_medium_24_p16", (97, 71), changes=SHORT),
    _case("xcit_medium_24_p8", (97, 71), changes=SHORT),
    _case("xcit_large_24_p16", (224, 224), (97, 71), changes=SHORT),
    _case("xcit_large_24_p8", (97, 71), changes=SHORT),
]
