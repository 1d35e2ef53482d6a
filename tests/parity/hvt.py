"""HVT against the official code, recorded: it runs at its size of construction, and ours is born for the same size."""
import sys
import types
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from tests.parity.case import Recorded
from vitrail.core.torchvision_guard import import_torchvision

SOURCE = "MonashAI/HVT@f32cc1c0a31275188995f7550619ed213c87675b: models.py"


def _official(code: Path, size: tuple[int, int], dim: int, heads: int, depth: int, pool: int) -> nn.Module:
    import_torchvision()
    # its file of arguments reads the command line, of which the model wants these two
    sys.modules["params"] = types.ModuleType("params")
    setattr(sys.modules["params"], "args",                      # noqa: B010
            types.SimpleNamespace(pool_block_width=pool, pool_kernel_size=3))
    sys.modules.pop("models", None)                             # it reads them when it is imported
    sys.path.insert(0, str(code))
    import models  # type: ignore[import-not-found]
    model = models.HVT(img_size=tuple(side + -side % 16 for side in size), embed_dim=dim, depth=depth, num_heads=heads,
                       qkv_bias=True, norm_layer=lambda width: nn.LayerNorm(width, eps=1e-6))
    assert isinstance(model, nn.Module)
    return model


def _padded(model: nn.Module, image: Tensor) -> Tensor:
    out = model(F.pad(image, (0, -image.shape[3] % 16, 0, -image.shape[2] % 16)))
    assert isinstance(out, Tensor)
    return out


def _case(name: str, *sizes: tuple[int, int], dim: int = 384, heads: int = 6, pool: int, **changes: Any) -> Recorded:
    return Recorded(name=name, source=SOURCE, sizes=sizes, changes=changes, output=_padded,
                    official=lambda code, h, w: _official(code, (h, w), dim, heads, changes.get("depth", 12), pool),
                    at=lambda h, w: {} if (h, w) == (224, 224) else {"image": (h, w)})


CASES = [
    _case("hvt_ti_1", (224, 224), (160, 160), (128, 272), (250, 131), dim=192, heads=3, pool=12),
    _case("hvt_s_1", (224, 224), pool=12, depth=2),
    _case("hvt_s_2", (224, 224), (99, 167), pool=6, depth=8),
    _case("hvt_s_3", (224, 224), (99, 167), pool=4, depth=6),
    _case("scale_hvt_ti_4", (224, 224), (99, 167), pool=3),
]
