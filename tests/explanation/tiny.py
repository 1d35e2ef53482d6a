"""One tiny model a form of backbone, with seeded weights, none of them zero, and real pictures."""
import functools
from dataclasses import replace
from typing import Any

import numpy as np
import skimage.data
import torch
from torch import Tensor

import vitrail
from vitrail.tasks.classification.model import Classifier

_PLAIN: dict[str, Any] = dict(image=64, dim=32, depth=3, heads=2)
TINY: dict[str, dict[str, Any]] = {
    "vit_ti16": _PLAIN,
    "vit_giant14": dict(image=56, dim=32, depth=2, heads=2, hidden=64),
    "deit_ti16": _PLAIN,
    "deit_ti16_distilled": _PLAIN,
    "swin_t": dict(dim=16, depths=(2, 2), heads=(1, 2), window=4),
    "convit_ti": dict(image=64, dim=32, depth=4, local=2, heads=4),
    "tnt_s": dict(image=64, dim=32, depth=2, heads=2, inner=8, inner_heads=2),
    "xcit_nano_12_p16": dict(dim=32, depth=2, heads=2),
    "resnet18": dict(dim=8, depths=(1, 1, 1, 1)),
}
SEEING = tuple(name for name in TINY if name != "resnet18")       # those with attention


def tiny(name: str, *, classes: int = 5, **changes: Any) -> Classifier:
    """In evaluation mode, for images of 64 x 64 pixels (56 for patches of 14)."""
    torch.manual_seed(0)
    model = vitrail.create_model(name, labels=tuple(f"thing {i}" for i in range(classes)), **{**TINY[name], **changes})
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.15 * torch.randn(parameter.shape, generator=generator)
    side = TINY[name].get("image", 64)
    model.config = replace(model.config, spec=replace(model.config.spec, preprocessing=replace(
        model.config.spec.preprocessing, size=(side, side))))
    return model


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(2))


@functools.cache
def pictures() -> tuple[np.ndarray, ...]:
    """Photographs bundled with scikit-image: square, wide, and of fine texture."""
    return skimage.data.astronaut(), skimage.data.chelsea(), skimage.data.coffee()
