"""RegionViT against the authors' code, which takes any size: at sizes that regions fit, and at others.

With 7 places a window: 112 x 56 pixels need no zeros; 84 x 84 need none at first, and some in the later stages; of
150 x 131 both sides need some; of 56 x 90 one side needs some, so that the other one gets a region of zeros.
"""
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from tests.parity.case import Recorded, double
from tests.parity.case_legacy import legacy

SOURCE = "IBM/RegionViT@77000c2fcfbe9a5735d7a27a8a7821f69c0440ec: regionvit/regionvit.py"
TWICE = tuple(f"proj_cls.{part}" for part in ("0.weight", "0.bias", "2.weight", "2.bias"))      # the same as proj
SHORT: Mapping[str, Any] = {"depths": (1, 1, 2, 1)}


def _case(name: str, reference: str, *sizes: tuple[int, int], changes: Mapping[str, Any] = {}) -> Recorded:
    def official(code: Path, height: int, width: int) -> nn.Module:
        module = legacy(code, "regionvit.regionvit")
        settings = module._model_cfg[reference] | {{"depths": "depth"}.get(k, k): list(v) for k, v in changes.items()}
        model: nn.Module = module.RegionViT(**settings)
        return model
    return Recorded(name=name, source=SOURCE, official=official, sizes=sizes, changes=changes, drop=TWICE,
                    output=double, centred=True)        # noise is a hundredth of the mean over regions of noise


CASES = [
    _case("regionvit_ti", "tiny", (224, 224), (112, 56), (84, 84), (150, 131), (56, 90), (97, 210)),
    _case("regionvit_s", "small", (224, 224), (90, 133), changes=SHORT),
    _case("regionvit_m", "medium", (224, 224), (90, 134), changes=SHORT),
    _case("regionvit_b", "base", (112, 112), changes=SHORT),
    _case("regionvit_s_w14", "small_w14", (224, 224), (90, 133), changes=SHORT),
    _case("regionvit_s_w14_peg", "small_w14_peg", (112, 112), (90, 133), changes=SHORT),
    _case("regionvit_b_w14", "base_w14", (112, 112), changes=SHORT),
    _case("regionvit_b_w14_peg", "base_w14_peg", (100, 140), changes=SHORT),
]
