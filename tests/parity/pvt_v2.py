"""PVT v2 against timm, and against the authors' code, recorded."""
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from tests.parity.case import Case, Recorded, timm_model
from tests.parity.pvt import old_timm

SIZES = ((224, 224), (160, 160), (96, 200), (130, 97))          # training, square, wide, odd
SHORT: Mapping[str, Any] = {"depths": (1, 1, 1, 1)}


def _timm(name: str, *sizes: tuple[int, int], changes: Mapping[str, Any] = {}) -> Case:
    return Case(name=name, reference=lambda height, width: timm_model(name, **changes), sizes=sizes, changes=changes)


def _official(name: str) -> Any:
    def build(code: Path, height: int, width: int) -> nn.Module:
        old_timm()
        sys.path.insert(0, str(code / "classification"))
        import pvt_v2  # type: ignore[import-not-found]
        model = getattr(pvt_v2, name)()
        assert isinstance(model, nn.Module)
        return model
    return build


CASES = [
    _timm("pvt_v2_b0", *SIZES),
    _timm("pvt_v2_b2_li", *SIZES, changes=SHORT),
    *(_timm(f"pvt_v2_b{i}", (224, 224), (130, 97), changes=SHORT) for i in range(1, 6)),
    *(Recorded(name=name, official=_official(name), sizes=((224, 224), (130, 97)),
               source="whai362/PVT@57e2dfaa5a46f9050d76f306a4fcd9a7c061f520: classification/pvt_v2.py")
      for name in ("pvt_v2_b0", "pvt_v2_b2_li")),
]
