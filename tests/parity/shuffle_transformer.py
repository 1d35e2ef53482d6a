"""Shuffle Transformer against its official code, recorded: windows of 7 have to divide the map at every stage.

Its batch norms do not hold back what noise makes grow, so that scores of thousands choose one key, and float32 cannot
say which: both sides answer in double precision. Recording needs the package einops, which the official code imports.
"""
import contextlib
import io
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from tests.parity.case import Recorded, double
from vitrail.core.torchvision_guard import import_torchvision

SOURCE = "mulinmeng/Shuffle-Transformer@8ba81eacf01314d4d26ff514f61badc7eebd33de: models/shuffle_transformer.py"


def _recorded(name: str, dim: int, heads: list[int], *sizes: tuple[int, int], changes: Mapping[str, Any] = {},
              depths: tuple[int, ...] = (2, 2, 6, 2)) -> Recorded:
    def official(code: Path, height: int, width: int) -> nn.Module:
        import_torchvision()
        sys.path.insert(0, str(code / "models"))
        from shuffle_transformer import ShuffleTransformer
        with contextlib.redirect_stdout(io.StringIO()):
            model: nn.Module = ShuffleTransformer(embed_dim=dim, num_heads=heads, qkv_bias=True,
                                                  layers=list(changes.get("depths", depths)))
        return model
    return Recorded(name=name, source=SOURCE, official=official, sizes=sizes, changes=changes,
                    drop=("relative_position_index",), output=double)


CASES = [
    _recorded("shuffle_t", 96, [3, 6, 12, 24], (224, 224)),
    _recorded("shuffle_t", 96, [3, 6, 12, 24], (448, 224), (224, 448), changes={"depths": (2, 2, 2, 2)}),
    _recorded("shuffle_s", 96, [3, 6, 12, 24], (224, 224), changes={"depths": (2, 2, 4, 2)}),
    _recorded("shuffle_b", 128, [4, 8, 16, 32], (224, 224), changes={"depths": (2, 2, 2, 2)}),
]
