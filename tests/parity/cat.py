"""CAT against its official code, recorded. It is built for one size of image, which a patch of 7 has to divide at every
stage."""
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from tests.parity.case import Recorded
from vitrail.core.torchvision_guard import import_torchvision

SOURCE = "linhezheng19/CAT@aa572caa1a2bffeb2410abbb069e6adeafb3d357: src/cat.py"


def _recorded(name: str, dim: int, heads: list[int], *sizes: tuple[int, int], changes: Mapping[str, Any] = {},
              depths: tuple[int, ...] = (1, 1, 3, 1)) -> Recorded:
    def official(code: Path, height: int, width: int) -> nn.Module:
        import_torchvision()
        sys.path.insert(0, str(code / "src"))
        from cat import CAT
        model: nn.Module = CAT(img_size=(height, width), embed_dim=dim, num_heads=heads,
                               depths=list(changes.get("depths", depths)), ape=True)
        return model
    return Recorded(name=name, source=SOURCE, official=official, sizes=sizes, changes=changes,
                    at=lambda height, width: {"image": (height, width)}, drop=("relative_position_index",))


CASES = [
    _recorded("cat_t", 64, [2, 4, 8, 16], (224, 224), (224, 448)),
    _recorded("cat_s", 96, [3, 6, 12, 24], (224, 224), changes={"depths": (1, 1, 1, 1)}),
    _recorded("cat_b", 96, [3, 6, 12, 24], (224, 224), (448, 224), changes={"depths": (1, 1, 2, 1)}),
]
