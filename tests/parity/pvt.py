"""PVT against the authors' code, recorded, and against transformers.

Both resample positions bilinearly, and only by the number of places; ours are resampled by the house's one function.
So off the training size the reference is built with tables of that size's own. Both also leave out what no whole patch
covers; here they are shown the zeros that ours adds there.
"""
import sys
import types
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.parity.case import Case, Recorded
from vitrail.core.torchvision_guard import import_torchvision

SOURCE = "whai362/PVT@57e2dfaa5a46f9050d76f306a4fcd9a7c061f520: classification/pvt.py"
OFF = ((160, 160), (96, 224), (130, 97))            # square, wide, odd


def old_timm() -> None:
    """The two modules of timm as the authors knew them, under the names that they import them by."""
    import_torchvision()
    import timm.layers
    import timm.models.vision_transformer
    layers, registry = types.ModuleType("timm.models.layers"), types.ModuleType("timm.models.registry")
    vars(layers).update({name: getattr(timm.layers, name) for name in ("DropPath", "to_2tuple", "trunc_normal_")})
    vars(registry)["register_model"] = lambda build: build      # else timm's own models of these names were replaced
    sys.modules |= {"timm.models.layers": layers, "timm.models.registry": registry}


def padded(patches: nn.Module, patch: int) -> None:
    """What cuts a map into patches is given it with zeros that fill up the last ones."""
    def fill(module: nn.Module, args: tuple[Tensor, ...]) -> Tensor:
        return F.pad(args[0], (0, -args[0].shape[3] % patch, 0, -args[0].shape[2] % patch))
    patches.register_forward_pre_hook(fill)


def grids(height: int, width: int) -> list[tuple[int, int]]:
    return [(-(-height // s), -(-width // s)) for s in (4, 8, 16, 32)]


def _official(name: str, **changes: Any) -> Any:
    def build(code: Path, height: int, width: int) -> nn.Module:
        old_timm()
        sys.path.insert(0, str(code / "classification"))
        import pvt  # type: ignore[import-not-found]
        model = getattr(pvt, name)(**changes)
        assert isinstance(model, nn.Module)
        for i, (h, w) in enumerate(grids(height, width), 1):
            patches: Any = getattr(model, f"patch_embed{i}")
            padded(patches, 4 if i == 1 else 2)
            patches.H, patches.W, patches.num_patches = h, w, h * w
            table = torch.zeros(1, h * w + (i == 4), getattr(model, f"pos_embed{i}").shape[2])
            setattr(model, f"pos_embed{i}", nn.Parameter(table))
        return model
    return build


def _transformers(depths: tuple[int, ...]) -> Any:
    def build(height: int, width: int) -> nn.Module:
        import_torchvision()
        from transformers import PvtConfig, PvtForImageClassification
        model = PvtForImageClassification(PvtConfig(depths=list(depths), num_labels=1000))
        for i, (h, w) in enumerate(grids(height, width)):
            patches: Any = model.pvt.encoder.patch_embeddings[i]
            padded(patches, 2 if i else 4)
            patches.layer_norm.eps = 1e-5       # as the weights were trained; there one epsilon serves all norms
            dim = patches.layer_norm.weight.numel()
            patches.position_embeddings = nn.Parameter(torch.zeros(1, h * w + (i == 3), dim))
        for name, part in model.named_modules():
            if name.endswith("attention.self.layer_norm"):
                part.eps = 1e-5
        return model
    return build


def _at(height: int, width: int) -> dict[str, Any]:
    return {} if (height, width) == (224, 224) else {"image": (height, width)}


def _logits(model: nn.Module, image: Tensor) -> Tensor:
    out: Any = model(image)
    assert isinstance(out.logits, Tensor)
    return out.logits


SHORT = (1, 1, 1, 1)
CASES = [
    Recorded(name="pvt_tiny", source=SOURCE, official=_official("pvt_tiny"), sizes=((224, 224), *OFF), at=_at),
    Case(name="pvt_tiny", keys="transformers", reference=_transformers((2, 2, 2, 2)), sizes=((224, 224), (130, 97)),
         at=_at, output=_logits),
    Recorded(name="pvt_small", source=SOURCE, official=_official("pvt_small"), sizes=((224, 224),), at=_at),
    *(Case(name=name, keys="transformers", reference=_transformers(SHORT), sizes=((130, 97),), at=_at,
           output=_logits, changes={"depths": SHORT}) for name in ("pvt_medium", "pvt_large")),
]
