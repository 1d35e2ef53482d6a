"""Uformer against its official code, recorded: the finest map of its body, read by a linear layer of a classifier.

The code takes square images. Recording needs the package einops.
"""
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from tests.parity.case import Recorded
from vitrail.core.torchvision_guard import import_torchvision

SOURCE = "ZhendongWang6/Uformer@65fc970a8ffc09605faca74ed016ee93c9ad8a36: model.py"


def _recorded(name: str, dim: int, *sizes: tuple[int, int], changes: Mapping[str, Any] = {}) -> Recorded:
    def official(code: Path, height: int, width: int) -> nn.Module:
        import_torchvision()
        sys.path.insert(0, str(code))
        from model import Uformer
        depths = list(changes.get("depths", (2, 2, 2, 2, 2)))
        model: nn.Module = Uformer(img_size=height, embed_dim=dim, depths=depths + depths[-2::-1], modulator=True)
        model.head = nn.Linear(2 * dim, 1000)
        return model
    return Recorded(name=name, source=SOURCE, official=official, sizes=sizes, changes=changes, output=_classified,
                    drop=("relative_position_index", "output_proj.proj.0.weight", "output_proj.proj.0.bias"))


def _classified(model: Any, image: Tensor) -> Tensor:
    seen = list[Tensor]()
    handle = model.output_proj.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    model(image)
    handle.remove()
    logits: Tensor = model.head(seen[0].mean(1))
    return logits


CASES = [
    _recorded("uformer_t", 16, (128, 128), (256, 256)),
    _recorded("uformer_s", 32, (128, 128), changes={"depths": (1, 1, 1, 1, 1)}),
    _recorded("uformer_b", 32, (128, 128), changes={"depths": (1, 1, 2, 2, 2)}),
]
