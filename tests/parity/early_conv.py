"""ViT_P and ViT_C against answers of the authors' code, which is made for one square size."""
import importlib
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

import vitrail
from tests.parity.case import Recorded, stand_in

SHORT: Mapping[str, int] = {"depth": 2}


def _official(name: str, changes: Mapping[str, int]) -> Callable[[Path, int, int], nn.Module]:
    def official(code: Path, height: int, width: int) -> nn.Module:
        stand_in("pycls.core.config", cfg=SimpleNamespace(      # what its file for this size says, or leaves as it is
            VIT=SimpleNamespace(PATCH_SIZE=16), LN=SimpleNamespace(EPS=1e-6), BN=SimpleNamespace(EPS=1e-5, MOM=0.1),
            MODEL=SimpleNamespace(ACTIVATION_FUN="relu", ACTIVATION_INPLACE=True)))
        stand_in("pycls.models", __path__=[str(code / "pycls" / "models")])     # its own imports all of the training
        sys.path.insert(0, str(code))
        ours: dict[str, Any] = {**vitrail.card(name).variant.settings(), **changes}
        stem, dim = ours["stem"], ours["dim"]
        model = importlib.import_module("pycls.models.vit").ViT(dict(
            image_size=224, patch_size=16, stem_type="conv" if stem else "patchify", c_stem_dims=[*stem, dim],
            c_stem_kernels=[3] * len(stem) + [1], c_stem_strides=STRIDES[len(stem)], n_layers=ours["depth"],
            n_heads=ours["heads"], hidden_d=dim, mlp_d=int(dim * ours["mlp_ratio"]), cls_type="token",
            num_classes=1000))
        places = -(-height // 16) * -(-width // 16)
        model.pos_embedding = nn.Parameter(torch.zeros(1 + places, 1, dim))     # the one thing that holds the size
        assert isinstance(model, nn.Module)
        return model
    return official


STRIDES: Mapping[int, list[int]] = {0: [], 4: [2, 2, 2, 2, 1], 6: [2, 2, 1, 2, 1, 2, 1]}      # as its files say


def _case(name: str, *sizes: tuple[int, int], changes: Mapping[str, int] = SHORT) -> Recorded:
    at = {} if sizes == ((224, 224),) else {"at": lambda height, width: {"image": (height, width)}}
    return Recorded(name=name, official=_official(name, changes), sizes=sizes, changes=changes, **at,
                    source="facebookresearch/pycls@5719de641657c251f807c20a1fcf8ef6f4b60144: pycls/models/vit.py")


CASES = [
    _case("vit_p_1gf", (224, 224), changes={}),
    _case("vit_p_1gf", (160, 160), (96, 208)),
    _case("vit_p_4gf", (224, 224)),
    _case("vit_p_18gf", (224, 224)),
    _case("vit_p_36gf", (224, 224)),
    _case("vit_c_1gf", (224, 224), changes={}),
    _case("vit_c_1gf", (160, 160), (96, 200), (131, 75)),       # its convolutions pad by themselves
    _case("vit_c_4gf", (224, 224)),
    _case("vit_c_18gf", (224, 224)),
    _case("vit_c_18gf", (131, 75)),
    _case("vit_c_36gf", (224, 224)),
]
