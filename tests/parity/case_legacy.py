"""Official code that was written for the timm of its year, imported beside today's."""
import importlib
import sys
from pathlib import Path
from types import ModuleType
from unittest import mock

import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.core.torchvision_guard import import_torchvision


def _stub(name: str, **held: object) -> ModuleType:
    module = ModuleType(name)
    vars(module).update(held)
    return module


def legacy(code: Path, name: str) -> ModuleType:
    """The module of this name in the folder, with what timm has moved or dropped put back for it."""
    import_torchvision()
    import timm.layers
    import timm.models.resnet
    import timm.models.resnetv2
    import timm.models.vision_transformer
    stubs = {
        "timm.models.layers": timm.layers,
        "timm.models.helpers": _stub("timm.models.helpers", load_pretrained=None),
        "timm.models.registry": _stub("timm.models.registry", register_model=lambda build: build),
        "timm.models.resnetv2": _stub("timm.models.resnetv2", ResNetV2=timm.models.resnetv2.ResNetV2,
                                      StdConv2dSame=None),
    }
    with mock.patch.dict(sys.modules, stubs), mock.patch.object(sys, "path", [str(code), *sys.path]):
        return importlib.import_module(name)


def up(n: int, patch: int = 16) -> int:
    """The next multiple of patch."""
    return n + -n % patch


def padded(model: nn.Module, image: Tensor) -> Tensor:
    """Asks a reference whose own size is a multiple of 16 pixels, with zeros below and to the right."""
    out = model(F.pad(image, (0, -image.shape[3] % 16, 0, -image.shape[2] % 16)))
    assert isinstance(out, Tensor)
    return out
